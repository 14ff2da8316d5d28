package pagecache

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// TestSpaceComesBack overwrites pages, some often and most seldom, and checks
// that segments are cleaned and reused while that goes on, and that nothing is
// lost by it.
func TestSpaceComesBack(t *testing.T) {
	o := tiny(vfs.NewMem(), stringPages{})
	c := mustOpen(t, o)
	rng := rand.New(rand.NewPCG(5, 5))
	const pages = 400
	var pids [pages]PID
	var want [pages]string
	for i := range pids {
		want[i] = strings.Repeat("a", 300)
		var err error
		pids[i], _, err = c.Allocate([]byte(want[i]))
		require.NoError(t, err)
	}
	largest := int64(0)
	for n := range 30000 {
		i := rng.IntN(pages)
		if n%4 != 0 {
			i = rng.IntN(pages / 10)
		}
		_, key, err := c.Get(pids[i])
		require.NoError(t, err)
		want[i] = strings.Repeat(string(rune('a'+n%26)), 200+rng.IntN(200))
		_, err = c.Set(pids[i], key, []byte(want[i]))
		require.NoError(t, err)
		if n%100 == 0 {
			m := c.Metrics()
			over := m.SpaceBytes - 2*m.LiveBytes
			largest = max(largest, over)
		}
		if n%50 == 0 {
			time.Sleep(time.Millisecond) // the machine may have one core
		}
	}
	m := c.Metrics()
	t.Logf("cleaned %d segments, moved %d pages, %d snapshots, slowed %d; largest excess over twice the live data: %d bytes", m.CleanedSegments, m.MovedPages, m.Snapshots, m.SlowedWrites, largest)
	require.NotZero(t, m.CleanedSegments)
	require.LessOrEqual(t, largest, int64(24*o.SegmentBytes))
	for i, pid := range pids {
		page, _, err := c.Get(pid)
		require.NoError(t, err)
		require.Equal(t, want[i], string(page))
	}
	require.NoError(t, c.Close())
	c = mustOpen(t, o)
	for i, pid := range pids {
		page, _, err := c.Get(pid)
		require.NoError(t, err)
		require.Equal(t, want[i], string(page))
	}
	require.NoError(t, c.Close())
}
