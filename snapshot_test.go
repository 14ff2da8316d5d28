package db_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

func TestSnapshot(t *testing.T) {
	d := openMerger(t)
	fill(t, d, "a", "b", "c")
	s := d.Snapshot()
	it := s.Scan(nil, nil)
	play(t, d, "set a=later, del b, merge c=x, set d=new")
	require.Equal(t, "a=A b=B c=C", rows(it))
	require.Equal(t, "a=A b=B c=C", rows(s.Scan(nil, nil)))
	require.Equal(t, "b=B", rows(s.ScanPrefix([]byte("b"))))
	for key, want := range map[string]string{"a": "A", "b": "B", "c": "C", "d": "-"} {
		require.Equal(t, want, get(t, s, key))
	}
	play(t, d, "erase -")
	dst, err := s.GetTo([]byte("dst:"), []byte("b"))
	require.NoError(t, err)
	require.Equal(t, "dst:B", string(dst))
	dst, err = s.GetTo(dst, []byte("absent"))
	require.ErrorIs(t, err, db.ErrNotFound)
	require.Equal(t, "dst:B", string(dst))
	_, err = s.Get(make([]byte, db.MaxKeyBytes+1))
	require.ErrorIs(t, err, db.ErrTooLarge)

	it = s.Scan(nil, nil)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close(), "closing twice is harmless")
	require.Equal(t, "a=A b=B c=C", rows(it), "it outlives the snapshot")
	requireSnapshotClosed(t, s)
	require.Empty(t, rows(d.Scan(nil, nil)))
}

func requireSnapshotClosed(t *testing.T, s *db.Snapshot) {
	t.Helper()
	_, err := s.Get([]byte("a"))
	require.ErrorIs(t, err, db.ErrClosed)
	dst, err := s.GetTo([]byte("dst"), []byte("a"))
	require.ErrorIs(t, err, db.ErrClosed)
	require.Equal(t, "dst", string(dst))
	_, err = s.Has([]byte("a"))
	require.ErrorIs(t, err, db.ErrClosed)
	for _, it := range []*db.Iterator{s.Scan(nil, nil), s.ScanPrefix(nil)} {
		require.False(t, it.Next())
		require.ErrorIs(t, it.Err(), db.ErrClosed)
		require.ErrorIs(t, it.Close(), db.ErrClosed)
	}
}

func TestSnapshotInClosedStore(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a")
	s, closed := d.Snapshot(), d.Snapshot()
	require.NoError(t, closed.Close())
	require.NoError(t, d.Close())
	requireSnapshotClosed(t, s)
	require.ErrorIs(t, s.Close(), db.ErrClosed)
	require.NoError(t, s.Close())
	require.NoError(t, closed.Close())
	s = d.Snapshot()
	require.NotNil(t, s)
	requireSnapshotClosed(t, s)
	require.ErrorIs(t, s.Close(), db.ErrClosed)
}

func TestSnapshotMetrics(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a")
	require.Zero(t, d.Metrics().Versions)
	s := d.Snapshot()
	it := s.Scan(nil, nil)
	tx := begin(t, d, true)
	for i := range 100 {
		require.NoError(t, d.Set([]byte("a"), fmt.Append(nil, i)))
	}
	time.Sleep(time.Millisecond)
	m := d.Metrics().Versions
	require.EqualValues(t, 3, m.Open)
	require.GreaterOrEqual(t, m.OldestAge, time.Millisecond)
	require.EqualValues(t, 1, m.KeptPages)
	require.Positive(t, m.KeptBytes)
	require.NoError(t, tx.Rollback())
	require.NoError(t, it.Close())
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool { return d.Metrics().Versions == db.VersionMetrics{} },
		10*time.Second, 10*time.Millisecond, "what they kept goes")
}

// A snapshot that is closed while others read from it answers rightly or with
// ErrClosed.
func TestSnapshotClosedWhileRead(t *testing.T) {
	d := open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	for round := range 30 {
		want := fmt.Sprint(round)
		for i := range 20 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%d", i), []byte(want)))
		}
		s := d.Snapshot()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					value, err := s.Get(fmt.Appendf(nil, "%d", i%20))
					if err != nil {
						if err != db.ErrClosed {
							t.Error(err)
						}
						return
					}
					if string(value) != want {
						t.Errorf("got %s, want %s", value, want)
						return
					}
				}
			})
		}
		for i := range 200 {
			require.NoError(t, d.Set(fmt.Appendf(nil, "%d", i%20), []byte("later")))
		}
		require.NoError(t, s.Close())
		wg.Wait()
	}
}
