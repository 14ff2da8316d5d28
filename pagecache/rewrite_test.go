package pagecache

import (
	"math/rand/v2"
	"testing"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/stretchr/testify/require"
)

// A page that gets half of all updates is written merged once for many more of them
// than one that gets a thousandth.
func TestBusyPagesKeepMoreDeltas(t *testing.T) {
	const pages, counters, updates = 256, 128, 8_000
	o := tiny(vfs.NewMem(), counterPages{})
	o.CacheSize = 8 << 20
	c := mustOpen(t, o)
	defer func() { require.NoError(t, c.Close()) }()
	var pids []PID
	for range pages {
		pid, _, err := c.Allocate(make([]byte, 8*counters))
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	places := make([]int, pages)
	var merges, deltas [2]int // of the busy page, of the others
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range updates {
		n := 0
		if i%2 == 1 {
			n = 1 + rnd.IntN(pages-1)
		}
		require.NoError(t, c.Throttle())
		for done := false; !done; {
			now := 0
			pinned(c, func(g epoch.Guard) {
				v, err := c.View(g, pids[n])
				require.NoError(t, err)
				r, err := c.Append(g, v, addTo(rnd.IntN(counters), 1), 0)
				require.NoError(t, err)
				done = r.Outcome == Done
				require.NoError(t, c.Maintain(g, pids[n]))
				v, err = c.View(g, pids[n])
				require.NoError(t, err)
				_, now = v.LogBytes()
			})
			if now < places[n] {
				merges[min(n, 1)]++
				deltas[min(n, 1)] += places[n]
			}
			places[n] = now
		}
	}
	require.Greater(t, merges[0], 10)
	require.Greater(t, merges[1], 10)
	busy, other := float64(deltas[0])/float64(merges[0]), float64(deltas[1])/float64(merges[1])
	t.Logf("deltas when merged: %.1f of the busy page, %.1f of others", busy, other)
	require.Greater(t, busy, 3*other)
}
