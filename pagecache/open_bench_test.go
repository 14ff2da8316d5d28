package pagecache

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkOpen opens, read only, a store of 350,000 pages with four fragments
// each: about what 10,000,000 rows of 116 bytes make. The variants differ in what
// there is to replay, and in how many files make up the snapshot.
func BenchmarkOpen(b *testing.B) {
	const pages = 350_000
	o := Options{Dir: b.TempDir(), Materializer: stringPages{}, CacheSize: 1 << 30, SnapshotBytes: 1 << 40}
	c, err := Open(o)
	require.NoError(b, err)
	var pids []PID
	for range pages {
		pid, _, err := c.Allocate(make([]byte, 60))
		require.NoError(b, err)
		pids = append(pids, pid)
	}
	update := func(n, every int) {
		for i := 0; i < n; i++ {
			g := c.Pin()
			v, err := c.View(g, pids[i*every%pages])
			require.NoError(b, err)
			_, err = c.Append(g, v, make([]byte, 60), 0)
			g.Unpin()
			require.NoError(b, err)
			require.NoError(b, c.Throttle())
		}
	}
	update(3*pages, 104729)
	require.NoError(b, c.Close())
	open := func(b *testing.B) {
		o := o
		o.ReadOnly = true
		b.ReportAllocs()
		for b.Loop() {
			c, err := Open(o)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			require.NoError(b, c.Close())
			b.StartTimer()
		}
	}
	b.Run("base", open)
	for _, n := range []int{100_000, 30_000, 9000, 2000} {
		c, err = Open(o)
		require.NoError(b, err)
		update(n, 7)
		require.NoError(b, c.Close())
	}
	b.Run("differences", open)
	c, err = Open(o)
	require.NoError(b, err)
	update(1_500_000, 104729)
	require.NoError(b, c.Sync())
	// As a kill leaves it: without the snapshot of Close.
	close(c.stop)
	c.background.Wait()
	require.NoError(b, c.log.Close())
	b.Run("replay", open)
}
