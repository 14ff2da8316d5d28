package log

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// TestFailedSyncThenReopen: after a failed sync and an Open without a reboot,
// what Replay delivered survives a loss of power. It did not: Start only synced
// it, and a sync after a failed one writes nothing.
func TestFailedSyncThenReopen(t *testing.T) {
	accepted := 0
	for seed := range int64(100) {
		mem := vfs.NewMem()
		mem.Seed(seed)
		var fail atomic.Bool
		l, _ := open(t, tiny(vfs.NewFault(mem, func(op vfs.Op) error {
			if fail.Load() && op.Kind == vfs.OpSync {
				return syscall.EIO
			}
			return nil
		})))
		_, end := write(t, l, Fresh, testUpdate(1))
		require.NoError(t, l.WaitDurable(Fresh, end))
		for i := range 30 {
			_, end = write(t, l, Fresh, testUpdate(2+i))
		}
		_, _ = write(t, l, Survivors, testUpdate(50)) // in a segment that nothing has made durable
		fail.Store(true)
		require.ErrorIs(t, l.WaitDurable(Fresh, end), ErrFailed)
		require.ErrorIs(t, l.Close(), ErrFailed)

		l, found := open(t, tiny(mem))
		require.NotEmpty(t, found)
		accepted += len(found) - 1
		lost := mem.CrashClone(0)
		require.NoError(t, l.Close())
		l, err := Open(tiny(lost))
		require.NoError(t, err)
		require.Equal(t, found, replayAll(t, l, Marks{}), "seed %d", seed)
		require.NoError(t, l.Close())
	}
	require.Greater(t, accepted, 500, "what the failed sync left is accepted now and then")
}

// TestPartOfAHeader: a segment whose header the full disk took a part of is no
// reason to refuse the log. It was, as damage; and removing what is headless must
// not hide damage.
func TestPartOfAHeader(t *testing.T) {
	for _, part := range []int{0, 1, 64, 127, headerBytes} {
		for _, recycled := range []bool{false, true} {
			mem := vfs.NewMem()
			var full atomic.Bool
			o := tiny(vfs.NewFault(mem, func(op vfs.Op) error {
				if full.Load() && op.Kind == vfs.OpWrite && op.Offset == 0 && strings.HasSuffix(op.Name, ".seg") {
					return &vfs.Partial{N: part, Err: syscall.ENOSPC}
				}
				return nil
			}))
			l, _ := open(t, o)
			start := Marks{}
			i := 0
			fill := func(bytes LSN) (err error) {
				for begin := l.Tail(Fresh); err == nil && l.Tail(Fresh) < begin+bytes; i++ {
					_, end := write(t, l, Fresh, testUpdate(i))
					err = l.WaitDurable(Fresh, end)
				}
				return err
			}
			require.NoError(t, fill(3*4096))
			if recycled {
				require.NoError(t, l.Recycle(l.Segments()[0].Base))
				start = l.ReplayStart()
			}
			full.Store(true)
			require.NoError(t, fill(100))
			require.ErrorIs(t, fill(2*4096), syscall.ENOSPC)
			durable := l.Durable(Fresh)
			require.ErrorIs(t, l.Close(), ErrFailed)
			for _, fs := range []*vfs.Mem{mem.CrashClone(0), mem.CrashClone(1), mem} {
				l, err := Open(tiny(fs))
				require.NoError(t, err)
				ends, err := l.Replay(start, func(Update, Position) error { return nil })
				require.NoError(t, err, "%d bytes, recycled %v", part, recycled)
				require.GreaterOrEqual(t, ends[Fresh], durable)
				require.NoError(t, l.Start())
				require.NoError(t, l.Close())
				if part < headerBytes {
					require.Equal(t, durable, ends[Fresh])
				}
			}
		}
	}
}

// TestHeaderLost: a segment whose first sector is lost is damage if a record
// behind it says that part of the segment was durable, whatever its incarnation.
func TestHeaderLost(t *testing.T) {
	for _, openings := range []int{1, 4} {
		mem := vfs.NewMem()
		for range openings {
			l, _ := open(t, tiny(mem))
			if l.Incarnation() == 1 {
				for i := range 20 {
					write(t, l, Fresh, testUpdate(i))
				}
			}
			require.NoError(t, l.Close())
		}
		names, err := mem.ReadDir("d")
		require.NoError(t, err)
		name := names[0]
		require.True(t, strings.HasSuffix(name, ".seg"))
		f, err := mem.OpenFile("d/"+name, 2, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(make([]byte, headerBytes), 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		var corrupt *CorruptError
		require.True(t, errors.As(noReplay(mem), &corrupt))
		require.Equal(t, name, corrupt.File)
	}
}

// TestEmptySegmentIsKept: a segment with a header and no record, left by a kill
// before it was synced, is named by the next one and must be as durable. It was
// not: nothing of it lay above a mark, so nothing was synced.
func TestEmptySegmentIsKept(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && op.Offset == 0 && strings.HasSuffix(op.Name, ".seg") {
			return &vfs.Partial{N: op.Size, Err: syscall.EIO}
		}
		return nil
	})))
	_, end := write(t, l, Fresh, testUpdate(1))
	require.ErrorIs(t, l.WaitDurable(Fresh, end), syscall.EIO)
	require.ErrorIs(t, l.Close(), ErrFailed)

	l, _ = open(t, tiny(mem))
	_, end = write(t, l, Fresh, testUpdate(2))
	require.NoError(t, l.WaitDurable(Fresh, end))
	lost := mem.CrashClone(0)
	require.NoError(t, l.Close())
	l, found := open(t, tiny(lost))
	require.Len(t, found, 1)
	require.NoError(t, l.Close())
}

// TestDirectoryMadeBefore: an Open that ended between making the directory and
// syncing the one above it leaves that to the next one, which left it out.
func TestDirectoryMadeBefore(t *testing.T) {
	mem := vfs.NewMem()
	o := tiny(vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpMkdirAll {
			return &vfs.Late{Err: syscall.EIO}
		}
		return nil
	}))
	o.Dir = "a/b"
	_, err := Open(o)
	require.ErrorIs(t, err, syscall.EIO)
	o.FS = mem
	l, _ := open(t, o)
	_, end := write(t, l, Fresh, testUpdate(2))
	require.NoError(t, l.WaitDurable(Fresh, end))
	o.FS = mem.CrashClone(0)
	require.NoError(t, l.Close())
	l, found := open(t, o)
	require.Len(t, found, 1)
	require.NoError(t, l.Close())
}

// TestPartOfAHeaderUnderAnOldName: a recycled segment whose new header is written in
// part, and whose new name is then lost with the power, is not shown under its
// old name. It was, and taken for damage.
func TestPartOfAHeaderUnderAnOldName(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	l, _ := open(t, tiny(vfs.NewFault(mem, func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpWrite && op.Offset == 0 && strings.HasSuffix(op.Name, ".seg") {
			return &vfs.Partial{N: 64, Err: syscall.ENOSPC}
		}
		return nil
	})))
	var err error
	for i := 0; i < 400; i++ {
		_, end := write(t, l, Fresh, testUpdate(i))
		require.NoError(t, l.WaitDurable(Fresh, end))
	}
	for _, s := range l.Segments() {
		if s.End != 0 && s.Stream == Fresh {
			require.NoError(t, l.Recycle(s.Base))
		}
	}
	start := l.ReplayStart()
	full.Store(true)
	for i := 0; err == nil; i++ {
		_, end := write(t, l, Fresh, testUpdate(i))
		err = l.WaitDurable(Fresh, end)
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorIs(t, l.Close(), ErrFailed)
	for seed := range int64(200) {
		l, err := Open(tiny(mem.CrashClone(seed)))
		require.NoError(t, err)
		_, err = l.Replay(start, func(Update, Position) error { return nil })
		require.NoError(t, err, "seed %d", seed)
		require.NoError(t, l.Start())
		require.NoError(t, l.Close())
	}
}

// TestFirstSegmentMissing: the first segment of a log that was synced late is
// missed. The search for a mark that says so ended at one that did not, and the
// whole log was taken for one that had lost its power before anything was durable.
func TestFirstSegmentMissing(t *testing.T) {
	mem := vfs.NewMem()
	l, _ := open(t, tiny(mem))
	for i := range 400 {
		write(t, l, Fresh, testUpdate(i))
	}
	first := segmentName(l.Segments()[0].Base)
	require.NoError(t, l.Close())
	require.NoError(t, noReplay(mem))
	require.NoError(t, mem.Remove("d/"+first))
	var corrupt *CorruptError
	require.True(t, errors.As(noReplay(mem), &corrupt))
	require.Equal(t, first, corrupt.File)
}
