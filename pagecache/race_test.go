package pagecache

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/paths"
	"github.com/pulkdb/db/internal/vfs"
)

// TestWriterBitEndsTheRace appends a delta whenever a consolidation is about to
// publish: it loses each time, takes the writer bit, and folds the page all the
// same. What was appended meanwhile is on top, once.
func TestWriterBitEndsTheRace(t *testing.T) {
	var c *Cache
	var pid PID
	var armed atomic.Bool
	lost := 0
	hookYield(t, func(p yieldPoint) {
		if p != yieldConsolidatePublish || !armed.Load() {
			return
		}
		g := c.Pin()
		defer g.Unpin()
		v, err := c.View(g, pid)
		if err != nil || v.Owned() {
			return
		}
		if r, err := c.Append(g, v, []byte("+"), 0); err == nil && r.Outcome == Done {
			lost++
		}
	})
	c = mustOpen(t, quiet(vfs.NewMem(), stringPages{}))
	defer c.Close()
	pid, key, err := c.Allocate([]byte("base"))
	require.NoError(t, err)
	for range 3 {
		key, err = c.Merge(pid, key, []byte("."))
		require.NoError(t, err)
	}
	before := paths.Counts()["WriterBitFallback"]
	armed.Store(true)
	var done bool
	pinned(c, func(g epoch.Guard) {
		v, err := c.View(g, pid)
		require.NoError(t, err)
		done, err = c.consolidate(g, v, true)
		require.NoError(t, err)
	})
	armed.Store(false)
	require.True(t, done)
	require.Equal(t, consolidateTriesMax, lost)
	if invariant.Debug {
		require.Equal(t, before+1, paths.Counts()["WriterBitFallback"])
	}
	page, _, err := c.Get(pid)
	require.NoError(t, err)
	require.Equal(t, "base...+++", string(page))
	pinned(c, func(g epoch.Guard) {
		v, err := c.View(g, pid)
		require.NoError(t, err)
		require.Equal(t, lost, v.Deltas())
		require.False(t, v.Owned())
	})
}
