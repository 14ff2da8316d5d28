package pagecache

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
)

// TestCrash pulls the plug while workers write. Each worker adds 1 to its counter
// in two pages of one Update and waits until that is durable. After the crash
// both pages must agree (P10), and show all that was acknowledged and nothing
// that was never written.
func TestCrash(t *testing.T) {
	const pages, workers, crashes = 8, 4, 60
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	fs := vfs.NewMem()
	c := mustOpen(t, tiny(fs, counterPages{}))
	var pids [pages]PID
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate(nil)
		require.NoError(t, err)
	}
	require.NoError(t, c.Sync())
	var issued, acked [workers]atomic.Int64
	for crash := range crashes {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range workers {
			first, second := pids[w], pids[workers+w]
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					issued[w].Add(1)
					if !addToBoth(t, c, first, second, w) {
						return
					}
					acked[w].Add(1)
				}
			})
		}
		wg.Go(func() { disturb(t, c, stop) })
		time.Sleep(time.Duration(rng.IntN(4000)) * time.Microsecond)
		var durable [workers]int64
		for w := range durable {
			durable[w] = acked[w].Load()
		}
		crashed := fs.CrashClone(int64(rng.Uint64() >> 1))
		close(stop)
		wg.Wait()
		require.NoError(t, c.Close())
		fs = crashed
		c = mustOpen(t, tiny(fs, counterPages{}))
		for w := range workers {
			a, b := mustCount(t, c, pids[w], w), mustCount(t, c, pids[workers+w], w)
			at := fmt.Sprintf("seed %d crash %d worker %d", seed, crash, w)
			require.Equal(t, a, b, at)
			require.GreaterOrEqual(t, a, durable[w], at)
			require.LessOrEqual(t, a, issued[w].Load(), at)
			issued[w].Store(a)
			acked[w].Store(a)
		}
	}
	require.NoError(t, c.Close())
}

func mustCount(t *testing.T, c *Cache, pid PID, counter int) int64 {
	page, _, err := c.Get(pid)
	require.NoError(t, err)
	return counterOf(page, counter)
}

// addToBoth adds 1 to a counter of two pages at once, durably.
func addToBoth(t *testing.T, c *Cache, first, second PID, counter int) bool {
	u := c.Begin()
	for _, pid := range []PID{first, second} {
		v, err := u.Acquire(pid)
		if err != nil {
			u.Discard()
			t.Errorf("acquire: %v", err)
			return false
		}
		u.Append(v, addTo(counter, 1), 0)
	}
	r, err := u.Commit()
	if err == nil {
		err = c.WaitDurable(r.LSN)
	}
	if err != nil {
		t.Errorf("commit: %v", err)
		return false
	}
	for _, pid := range []PID{first, second} {
		g := c.Pin()
		if err := c.Maintain(g, pid); err != nil {
			t.Errorf("maintain: %v", err)
		}
		g.Unpin()
	}
	return true
}

// TestRootWithTheHighestGenerationWins: a former root that is rewritten last must
// not be taken for the root (P6).
func TestRootWithTheHighestGenerationWins(t *testing.T) {
	fs := vfs.NewMem()
	c := mustOpen(t, tiny(fs, stringPages{}))
	old, oldKey, err := c.Allocate([]byte("root\x01"))
	require.NoError(t, err)
	next, _, err := c.Allocate([]byte("root\x02"))
	require.NoError(t, err)
	_, err = c.Set(old, oldKey, []byte("root\x01 moved"))
	require.NoError(t, err)
	check := func() {
		r, ok := c.Recovered(0)
		require.True(t, ok)
		require.Equal(t, next, r.PID)
		require.Equal(t, uint64(2), r.Generation)
	}
	check()
	require.NoError(t, c.Sync())
	crashed := fs.CrashClone(0)
	require.NoError(t, c.Close())
	c = mustOpen(t, tiny(crashed, stringPages{}))
	check() // from the log
	require.NoError(t, c.Close())
	c = mustOpen(t, tiny(crashed, stringPages{}))
	check() // from a snapshot
	require.NoError(t, c.Close())
}

// TestFreedPIDWaits: a PID is reused neither under a guard that may have seen its
// page nor before the record that freed it is durable, and with a higher version
// (P4, P5).
func TestFreedPIDWaits(t *testing.T) {
	c := mustOpen(t, tiny(vfs.NewMem(), stringPages{}))
	defer c.Close()
	pid, key, err := c.Allocate([]byte("first"))
	require.NoError(t, err)
	pinned(c, func(g epoch.Guard) {
		v, err := c.View(g, pid)
		require.NoError(t, err)
		require.NoError(t, c.Free(pid, key))
		for range 20 {
			c.epochs.TryAdvance()
			other, _, err := c.Allocate(nil)
			require.NoError(t, err)
			require.NotEqual(t, pid, other)
		}
		require.Equal(t, "first", string(v.Base()))
	})
	c.waitForGuards()
	other, _, err := c.Allocate(nil) // the record that freed it is not durable
	require.NoError(t, err)
	require.NotEqual(t, pid, other)
	require.NoError(t, c.Sync())
	again, newKey, err := c.Allocate([]byte("second"))
	require.NoError(t, err)
	require.Equal(t, pid, again)
	require.Greater(t, newKey.Version(), key.Version())
	_, err = c.Merge(pid, key, []byte("late"))
	require.ErrorIs(t, err, ErrChanged)
}
