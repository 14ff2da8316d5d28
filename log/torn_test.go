package log

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// A segment that a crash tore, with whole records behind the tear, and of which the
// next one is gone, ends at the tear. It was taken for damage, so that nothing could
// be moved out of it.
func TestTornSegmentCanBeScanned(t *testing.T) {
	guessed, behind := 0, 0
	for seed := int64(0); behind < 2 && seed < 4000; seed++ {
		fs := vfs.NewMem()
		l, _ := open(t, tiny(fs))
		_, end := write(t, l, Fresh, testUpdate(0))
		require.NoError(t, l.WaitDurable(Fresh, end))
		for i := 1; i < 45; i++ {
			write(t, l, Fresh, testUpdate(i))
			require.NoError(t, l.Throttle())
		}
		torn := fs.CrashClone(seed)
		require.NoError(t, l.Close())

		l, _ = open(t, tiny(torn))
		first := l.Segments()[0].Base
		next := l.SegmentOf(l.Tail(Fresh))
		fill := func() {
			for i := range 200 {
				write(t, l, Fresh, testUpdate(i))
				require.NoError(t, l.Throttle())
			}
			require.NoError(t, l.Sync())
		}
		fill()
		from := l.Tail(Fresh)
		fill()
		require.NoError(t, l.Recycle(next))
		fill()
		require.NoError(t, l.Close())

		l, err := Open(tiny(torn))
		require.NoError(t, err)
		var list []delivered
		_, err = l.Replay(Marks{Fresh: from}, collect(&list))
		require.NoError(t, err)
		require.NoError(t, l.Start())
		s := l.segmentAt(first)
		require.NotNil(t, s)
		if s.guessed.Load() {
			guessed++
		}
		require.NoError(t, l.ScanSegment(first, func(Update, Position) error { return nil }), "seed %d", seed)
		h, err := l.openSegment(s)
		require.NoError(t, err)
		data, err := readUpTo(h.file, 4096, 0)
		require.NoError(t, err)
		require.NoError(t, h.release())
		if findRecord(data, int(s.end.Load()-uint64(s.base)), s.base, s.seed) >= 0 {
			behind++
		}
		require.NoError(t, l.Close())
	}
	t.Logf("%d segments have lost their end, %d have records behind it", guessed, behind)
	require.NotZero(t, guessed)
	require.NotZero(t, behind)
}

// Damage in a segment that was the last of its opening, and of which the next one is
// gone, was taken for its end even if a record behind it said that it had been durable.
func TestDamageIsNoEnd(t *testing.T) {
	fs := vfs.NewMem()
	put := func(l *Log, n int) {
		for i := range n {
			_, end := write(t, l, Fresh, testUpdate(i))
			require.NoError(t, l.WaitDurable(Fresh, end))
		}
	}
	l, _ := open(t, tiny(fs))
	put(l, 10)
	first := l.Segments()[0].Base
	require.NoError(t, l.Close())
	l, _ = open(t, tiny(fs))
	next := l.SegmentOf(l.Tail(Fresh))
	put(l, 200)
	from := l.Tail(Fresh)
	put(l, 200)
	require.NoError(t, l.Recycle(next))
	put(l, 200)
	require.NoError(t, l.Close())

	scan := func() error {
		l, err := Open(tiny(fs))
		require.NoError(t, err)
		_, err = l.Replay(Marks{Fresh: from}, func(Update, Position) error { return nil })
		require.NoError(t, err)
		require.NoError(t, l.Start())
		defer func() { require.NoError(t, l.Close()) }()
		require.True(t, l.segmentAt(first).guessed.Load())
		return l.ScanSegment(first, func(Update, Position) error { return nil })
	}
	require.NoError(t, scan())
	require.True(t, fs.Corrupt("d/"+segmentName(first), headerBytes+40, 1))
	var corrupt *CorruptError
	require.ErrorAs(t, scan(), &corrupt)
	require.Equal(t, segmentName(first), corrupt.File)
}
