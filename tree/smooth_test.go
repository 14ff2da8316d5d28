package tree

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/pagecache"
)

// deltasOf returns how many deltas lie on the leaf of key, and on the inner nodes
// that lead to it.
func deltasOf(t *testing.T, tr *Tree, key []byte) (leaf, inner int) {
	t.Helper()
	g := tr.cache.Pin()
	defer g.Unpin()
	p, err := tr.descend(g, 0, &seek{key: key}, 0)
	require.NoError(t, err)
	require.Zero(t, p.absent)
	above, err := tr.descend(g, 0, &seek{key: key}, 1)
	require.NoError(t, err)
	return p.view.Deltas(), above.view.Deltas()
}

// Readers fold what they read, leaves and inner nodes, and change nothing by it.
func TestReadersFoldWhatTheyRead(t *testing.T) {
	tr := openTree(t, Options{Cache: pagecache.Options{InMemory: true, MergeDeltas: 1000}, Durability: None, MaxNodeBytes: 512})
	value := func(i int) []byte { return fmt.Appendf(nil, "value %d", i) }
	const keys = 400
	worn := 0
	for i := range keys {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), value(i)))
		if _, inner := deltasOf(t, tr, []byte("0000")); inner > 0 {
			worn++
		}
	}
	require.NotZero(t, worn, "no split left a delta above")
	for i := range keys {
		key := fmt.Appendf(nil, "%04d", i)
		for range 10000 {
			got, err := tr.GetTo(nil, key)
			require.NoError(t, err)
			if !bytes.Equal(got, value(i)) {
				t.Fatalf("%s = %q", key, got)
			}
			if leaf, inner := deltasOf(t, tr, key); leaf+inner == 0 {
				break
			}
		}
		leaf, inner := deltasOf(t, tr, key)
		require.Zero(t, leaf, "leaf of %s", key)
		require.Zero(t, inner, "above the leaf of %s", key)
	}
	require.NoError(t, tr.Check())
}

// A reader frees no pages: those of a large value that was overwritten go when a
// writer, or what gives space back, folds the leaf.
func TestReadersFreeNothing(t *testing.T) {
	tr := openTree(t, Options{Cache: pagecache.Options{InMemory: true, MergeDeltas: 1000}, Durability: None, MaxNodeBytes: 512})
	large := bytes.Repeat([]byte("large"), 1000)
	require.NoError(t, tr.Set([]byte("k"), large))
	require.NoError(t, tr.Set([]byte("k"), []byte("small")))
	free := tr.cache.Metrics().FreePages
	for range 2000 {
		got, err := tr.GetTo(nil, []byte("k"))
		require.NoError(t, err)
		require.Equal(t, "small", string(got))
	}
	leaf, _ := deltasOf(t, tr, []byte("k"))
	require.NotZero(t, leaf)
	require.Equal(t, free, tr.cache.Metrics().FreePages)
}

// Scans fold the leaves that they have to merge.
func TestScansFoldWhatTheyRead(t *testing.T) {
	tr := openTree(t, Options{Cache: pagecache.Options{InMemory: true, MergeDeltas: 1000}, Durability: None, MaxNodeBytes: 512})
	var want []string
	for i := range 300 {
		key := fmt.Sprintf("%04d", i)
		require.NoError(t, tr.Set([]byte(key), []byte("value")))
		want = append(want, key+"=value")
	}
	deltas := func() (n int) {
		for i := range want {
			leaf, inner := deltasOf(t, tr, fmt.Appendf(nil, "%04d", i))
			n += leaf + inner
		}
		return n
	}
	require.NotZero(t, deltas())
	for try := 0; try < 1000 && deltas() > 0; try++ {
		it := tr.Scan(nil, nil)
		require.Equal(t, want, rows(t, it))
		require.NoError(t, it.Close())
	}
	require.Zero(t, deltas())
	require.NoError(t, tr.Check())
}
