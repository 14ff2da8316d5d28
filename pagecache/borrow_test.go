package pagecache

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// TestOwnedPageIsLent: a page that is not in memory is read while somebody holds
// its writer bit, with blind deltas on top of it too, and what was lent never
// stands for the page as it is later.
func TestOwnedPageIsLent(t *testing.T) {
	c := mustOpen(t, tiny(vfs.NewMem(), stringPages{}))
	defer c.Close()
	pid, key, err := c.Allocate([]byte("a"))
	require.NoError(t, err)
	want := "a"
	absent := func() bool {
		g := c.Pin()
		defer g.Unpin()
		word := c.table.slot(pid).Load()
		return c.bottomOf(word).kind == nodeAbsent
	}
	for round := range 30 {
		require.NoError(t, c.Sync())
		for range 100 {
			if c.evictAll(); absent() {
				break
			}
		}
		require.True(t, absent())
		if round%2 == 1 {
			key, err = c.Merge(pid, key, []byte("b")) // blind
			require.NoError(t, err)
			want += "b"
		}
		u := c.Begin()
		v, err := u.Acquire(pid)
		require.NoError(t, err)
		if round%2 == 0 {
			require.False(t, v.Resident())
		}
		for range 2 {
			page, seen, err := c.Get(pid)
			require.NoError(t, err)
			require.Equal(t, want, string(page))
			require.Equal(t, key, seen)
		}
		u.Append(v, []byte("+"), 0)
		r, err := u.Commit()
		require.NoError(t, err)
		require.Equal(t, Done, r.Outcome)
		want += "+"
		page, seen, err := c.Get(pid)
		require.NoError(t, err)
		require.Equal(t, want, string(page))
		key = seen
		if len(want) > 20 {
			key, err = c.Set(pid, key, []byte("a"))
			require.NoError(t, err)
			want = "a"
		}
	}
	c.dropBorrowed()
	require.Zero(t, c.borrowed.count.Load())
}
