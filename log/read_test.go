package log

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// Updates that lie in one segment, on file, are read with one read; whatever else
// stands between them, in buffers and in several segments, they are what was written.
func TestReadTogether(t *testing.T) {
	l, _ := open(t, tiny(vfs.NewMem()))
	defer func() { require.NoError(t, l.Close()) }()
	var ps []Position
	var want []Update
	for i := range 200 {
		p, _ := write(t, l, Fresh, testUpdate(i))
		ps, want = append(ps, p), append(want, testUpdate(i))
	}
	check := func(from, to, step int) (reads uint64) {
		var some []Position
		var wanted []Update
		for i := from; i < to; i += step {
			some, wanted = append(some, ps[i]), append(wanted, want[i])
		}
		before := l.Metrics().Reads
		got, err := l.ReadTogether(some)
		require.NoError(t, err)
		require.Equal(t, wanted, got)
		return l.Metrics().Reads - before
	}
	check(190, 200, 1) // in buffers
	require.NoError(t, l.Sync())
	require.EqualValues(t, 1, check(0, 9, 2))
	require.EqualValues(t, 1, check(4, 5, 1))
	require.EqualValues(t, 200, check(0, 200, 1), "over several segments one by one")
	_, err := l.ReadTogether([]Position{ps[0], {LSN: ps[1].LSN + 1, Size: ps[1].Size}})
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestReadNoPosition reads where no update is, of what is still in memory: that was waited for
// until somebody wrote more, or for ever.
func TestReadNoPosition(t *testing.T) {
	l, _ := open(t, tiny(vfs.NewMem()))
	p, _ := write(t, l, Fresh, testUpdate(1))
	for _, bad := range []Position{{p.LSN, p.Size + 1}, {p.LSN + 1, p.Size}, {p.LSN + 3, p.Size - 3}, {p.LSN + LSN(p.Size), 50}} {
		_, _, err := l.Read(bad, nil)
		require.ErrorIs(t, err, ErrCorrupt, "%v", bad)
	}
	_, _, err := l.Read(p, nil)
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// A segment is scanned by who has smaller buffers than its writer had, and so than its
// records. It counted as corrupt.
func TestScanLongRecords(t *testing.T) {
	o := tiny(vfs.NewMem())
	o.SegmentBytes, o.BufferBytes = 2<<20, 1<<20
	l, _ := open(t, o)
	want := []int{10, 900 << 10, 700 << 10, 20, 300 << 10}
	for i, n := range want {
		u := testUpdate(i)
		u.Payload = make([]byte, n)
		write(t, l, Fresh, u)
	}
	require.NoError(t, l.Close())
	o.BufferBytes = 1 << 10
	l, _ = open(t, o)
	var got []int
	require.NoError(t, l.ScanSegment(l.Segments()[0].Base, func(u Update, _ Position) error {
		got = append(got, len(u.Payload))
		return nil
	}))
	require.Equal(t, want, got)
	require.NoError(t, l.Close())
}
