package log

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// TestFileOperations fixes which file operations the log makes, and in what order
// (L2 to L5): testdata/operations.golden.
func TestFileOperations(t *testing.T) {
	if filepath.Separator != '/' {
		t.Skip("names are written otherwise")
	}
	mem := vfs.NewMem()
	var trace crashtest.Trace
	failing := false
	fs := vfs.NewFault(mem, func(op vfs.Op) error {
		_ = trace.Note(op)
		if failing && op.Kind == vfs.OpSync {
			return syscall.EIO
		}
		return nil
	})
	l := goldenOpen(t, &trace, "open a new log", fs)

	trace.Section("first write, durable")
	_, end := write(t, l, Fresh, testUpdate(1))
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("second write, durable")
	_, end = write(t, l, Fresh, testUpdate(2))
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("write in the other stream, sync")
	write(t, l, Survivors, testUpdate(3))
	require.NoError(t, l.Sync())

	trace.Section("sync with nothing to do")
	require.NoError(t, l.Sync())

	trace.Section("write into the next segment, durable")
	first := l.SegmentOf(l.Tail(Fresh))
	for i := 4; l.SegmentOf(l.Tail(Fresh)) == first; i++ {
		_, end = write(t, l, Fresh, testUpdate(i))
	}
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("recycle the first segment: its file stays until a durable header says that the stream went on")
	require.NoError(t, l.Recycle(first))
	_, end = write(t, l, Fresh, testUpdate(100))
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("write into one more segment, durable")
	second := l.SegmentOf(l.Tail(Fresh))
	for i := 101; l.SegmentOf(l.Tail(Fresh)) == second; i++ {
		_, end = write(t, l, Fresh, testUpdate(i))
	}
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("write into another, which makes the new name of the file durable")
	third := l.SegmentOf(l.Tail(Fresh))
	for i := 301; l.SegmentOf(l.Tail(Fresh)) == third; i++ {
		_, end = write(t, l, Fresh, testUpdate(i))
	}
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("write into another, which reuses the file")
	fourth := l.SegmentOf(l.Tail(Fresh))
	for i := 501; l.SegmentOf(l.Tail(Fresh)) == fourth; i++ {
		_, end = write(t, l, Fresh, testUpdate(i))
	}
	require.NoError(t, l.WaitDurable(Fresh, end))

	trace.Section("close")
	start := l.ReplayStart()
	require.NoError(t, l.Close())

	trace.Section("open after that, not started")
	l, err := Open(tiny(fs))
	require.NoError(t, err)
	_, err = l.Replay(start, func(Update, Position) error { return nil })
	require.NoError(t, err)

	trace.Section("start")
	require.NoError(t, l.Start())
	goldenQuiet(l)

	trace.Section("write, durable; write, and be killed")
	_, end = write(t, l, Fresh, testUpdate(500))
	require.NoError(t, l.WaitDurable(Fresh, end))
	write(t, l, Fresh, testUpdate(501))
	l.streams[Fresh].sealCurrent()
	require.False(t, l.writeSealed())
	mem.Kill()

	trace.Section("open after that: what is accepted is written again")
	l, err = Open(tiny(fs))
	require.NoError(t, err)
	_, err = l.Replay(start, func(Update, Position) error { return nil })
	require.NoError(t, err)
	require.NoError(t, l.Start())
	goldenQuiet(l)

	trace.Section("a sync fails: nothing is written any more")
	failing = true
	_, end = write(t, l, Fresh, testUpdate(600))
	require.ErrorIs(t, l.WaitDurable(Fresh, end), ErrFailed)
	require.ErrorIs(t, l.Sync(), ErrFailed)
	require.ErrorIs(t, l.Close(), ErrFailed)
	trace.Golden(t, "operations.golden")
}

func goldenOpen(t *testing.T, trace *crashtest.Trace, section string, fs vfs.FS) *Log {
	trace.Section(section)
	l, _ := open(t, tiny(fs))
	goldenQuiet(l)
	return l
}

// goldenQuiet ends the goroutines that write unasked.
func goldenQuiet(l *Log) {
	close(l.quit)
	l.goroutines.Wait()
	l.quit = make(chan struct{})
}
