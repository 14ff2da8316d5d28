package tree

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
)

// TestLateNoteIsWalkedAgain: a merge that collected its moments while one was open,
// and notes what it kept for it after the shrinker has walked because it was closed,
// left KeptBytes above 0 for good.
func TestLateNoteIsWalkedAgain(t *testing.T) {
	tr := openTree(t, tiny())
	require.NoError(t, tr.Set([]byte("k"), []byte("old")))
	pid := tr.root.Load().pid
	it := tr.Scan(nil, nil)
	require.NoError(t, tr.Set([]byte("k"), []byte("new")))
	var merged node
	pinned(tr, func(g epoch.Guard) {
		require.NoError(t, tr.cache.Consolidate(g, pid, false))
		v, err := tr.cache.View(g, pid)
		require.NoError(t, err)
		merged = node(bytes.Clone(v.Base()))
	})
	kept := tr.shrinker.kept
	require.NotZero(t, kept.bytes.Load())
	require.NoError(t, it.Close())
	gone := func() bool { return kept.bytes.Load() == 0 }
	require.Eventually(t, gone, 10*time.Second, time.Millisecond)
	for range 3 {
		kept.note(pid, merged)
		require.Eventually(t, gone, 10*time.Second, time.Millisecond)
	}
	require.NoError(t, tr.Close())
}
