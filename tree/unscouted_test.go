package tree

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
)

// Commits that have not scouted: see commit.go.

// Leaves that an inner node named for the next operations are split, joined or evicted
// before the commit comes to them: it finds what they have become.
func TestGuessesGoStale(t *testing.T) {
	key := func(i int) string { return fmt.Sprintf("%04d", i) }
	type leafAt struct {
		pid      PID
		resident bool
	}
	leaves := func(tr *Tree) (all []leafAt) {
		pinned(tr, func(g epoch.Guard) {
			for i := 100; i < 200; i += 10 {
				p, err := tr.descend(g, 0, &seek{key: []byte(key(i))}, 0)
				require.NoError(t, err)
				all = append(all, leafAt{p.view.PID(), p.absent == 0})
			}
		})
		return all
	}
	for name, change := range map[string]func(tr *Tree){
		"split": func(tr *Tree) {
			for i := range 400 {
				set(t, tr, fmt.Sprintf("%s/%d", key(100+i/4), i%4), "between")
			}
		},
		"joined": func(tr *Tree) {
			for i := 110; i < 200; i += 10 {
				require.NoError(t, tr.DeleteRange([]byte(key(i-9)), []byte(key(i))))
			}
			joinAll(t, tr)
			require.NotZero(t, tr.Metrics().LeafJoins)
			set(t, tr, "large", strings.Repeat("x", 5000)) // would take PIDs that are free
		},
		"evicted": func(tr *Tree) {
			for i := 0; slices.ContainsFunc(leaves(tr), func(l leafAt) bool { return l.resident }); i++ {
				require.Less(t, i, 100000)
				set(t, tr, fmt.Sprintf("9%05d", i), "fills the cache, so that others are evicted")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var tr *Tree
			var armed atomic.Bool
			var want map[string]string
			yieldHook = func(p yieldPoint) {
				if p != yieldBatchOwned || !armed.CompareAndSwap(true, false) {
					return
				}
				before := leaves(tr)
				change(tr)
				require.NotEqual(t, before, leaves(tr), "nothing happened to any leaf")
				want = map[string]string{}
				for _, row := range rows(t, tr.Scan(nil, nil)) {
					k, v, _ := strings.Cut(row, "=")
					want[k] = v
				}
			}
			t.Cleanup(func() { yieldHook = nil })
			tr = openTree(t, tinyOnDisk(vfs.NewMem()))
			for i := range 200 {
				set(t, tr, key(i), "before")
			}
			var ops []Op
			for i := 0; i < 200; i += 10 {
				ops = append(ops, Op{Key: []byte(key(i)), Value: []byte("batch")})
			}
			for i := range 200 { // brings them into memory
				_, found := get(t, tr, key(i))
				require.True(t, found)
			}
			armed.Store(true)
			require.NoError(t, tr.Apply(ops))
			require.False(t, armed.Load())
			for _, op := range ops {
				want[string(op.Key)] = "batch"
			}
			sameRows(t, modelRows(want, nil, nil), rows(t, tr.Scan(nil, nil)))
			require.NoError(t, tr.Check())
		})
	}
}

// A commit checks the nodes that it brings into memory, as everybody does. What a node
// says of itself that is not so ended the process.
func TestCommitChecksWhatItLoads(t *testing.T) {
	o := tinyOnDisk(vfs.NewMem())
	tr := openTree(t, o)
	key := func(i int) string { return fmt.Sprintf("keys with a long beginning/%04d", i) }
	for i := range 40 {
		set(t, tr, key(i), "value")
	}
	u := tr.cache.Begin()
	v, err := u.Acquire(tr.root.Load().pid)
	require.NoError(t, err)
	m := newMerger()
	root, err := m.mergeView(nil, v, folder{})
	m.release()
	require.NoError(t, err)
	require.NotZero(t, root.level())
	for i := range root.count() {
		le.PutUint16(root[root.offsetsAt()+2*i:], 60000)
	}
	require.ErrorIs(t, root.validate(), ErrCorrupt)
	u.Replace(v, root)
	_, err = u.Commit()
	require.NoError(t, err)
	require.NoError(t, tr.Close())
	tr = openTree(t, o)
	require.ErrorIs(t, tr.Apply([]Op{{Key: []byte(key(7))}}), ErrCorrupt)
}

// A commit has the leaves looked after that it wrote to: none has many deltas, or is much
// larger than a node should be.
func TestBatchesTendTheirLeaves(t *testing.T) {
	for _, size := range []int{1, 60} {
		o := tiny()
		tr := openTree(t, o)
		for n := range 200 {
			var ops []Op
			for i := range 3 {
				ops = append(ops, Op{Key: fmt.Appendf(nil, "%d%02d", i, n*37%100), Value: value("v", size)})
			}
			require.NoError(t, tr.Apply(ops))
			pinned(tr, func(g epoch.Guard) {
				p, err := tr.descend(g, 0, &seek{}, 0)
				require.NoError(t, err)
				for v, last := p.view, false; !last; {
					leaf := node(v.Base())
					require.Less(t, v.Deltas(), o.Cache.MergeDeltas, "batch %d: %v", n, leaf)
					if v.Size()-len(leaf) >= o.MaxNodeBytes/2 { // the deltas replace one another
						require.LessOrEqual(t, mergedBytes(v), o.MaxNodeBytes, "batch %d: %v", n, leaf)
					}
					require.LessOrEqual(t, len(leaf), o.MaxNodeBytes, "batch %d: %v", n, leaf)
					if last = leaf.isLast(); !last {
						v, err = tr.cache.Peek(g, leaf.right())
						require.NoError(t, err)
					}
				}
			})
		}
		require.Greater(t, pages(tr), uint64(10))
	}
}
