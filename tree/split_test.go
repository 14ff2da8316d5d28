package tree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

// Splits left half done are finished by whoever goes right; the tree is whole at
// any time, also after a restart (T2).
func TestHalfDoneSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 7))
	halfDoneHook = func() bool { return rng.IntN(3) > 0 }
	defer func() { halfDoneHook = nil }()
	fs := vfs.NewMem()
	want := map[string]string{}
	finished := uint64(0)
	for range 5 {
		tr, err := Open(tinyOnDisk(fs))
		require.NoError(t, err)
		for i := range 800 {
			k, v := fmt.Sprintf("%05d", rng.IntN(5000)), fmt.Sprint("v", i)
			want[k] = v
			require.NoError(t, tr.Set([]byte(k), []byte(v)))
		}
		require.NoError(t, tr.Check())
		it := tr.Scan(nil, nil)
		require.Equal(t, modelRows(want, nil, nil), rows(t, it))
		require.NoError(t, it.Close())
		for k, v := range want {
			got, _ := get(t, tr, k)
			require.Equal(t, v, got)
		}
		finished += tr.Metrics().FinishedSplits
		require.NoError(t, tr.Close())
	}
	require.NotZero(t, finished)
}

// A batch far larger than a node, into an empty tree and into a full one.
func TestLargeBatches(t *testing.T) {
	for _, o := range []Options{tiny(), {Cache: pagecache.Options{InMemory: true}, Durability: None}} {
		tr := openTree(t, o)
		want := map[string]string{}
		for round := range 3 {
			var ops []Op
			for i := range 20000 {
				k := fmt.Sprintf("%07d", i*3+round)
				v := fmt.Sprint(round, "-", i)
				if i%1000 == 0 {
					v = string(value(k, 5000))
				}
				ops = append(ops, Op{Key: []byte(k), Value: []byte(v)})
				want[k] = v
			}
			require.NoError(t, tr.Apply(ops))
			require.NoError(t, tr.Check())
		}
		it := tr.Scan(nil, nil)
		require.Equal(t, modelRows(want, nil, nil), rows(t, it))
		require.NoError(t, it.Close())
		m := tr.Metrics()
		t.Logf("pages %d, splits %d+%d, growths %d", m.Cache.Pages, m.LeafSplits, m.InnerSplits, m.RootGrowths)
	}
}

// A batch of a million operations, on disk with a cache that holds it.
func TestMillionOps(t *testing.T) {
	if testing.Short() {
		t.Skip()
	}
	tr := openTree(t, Options{Cache: pagecache.Options{Dir: t.TempDir(), CacheSize: 512 << 20}})
	n := 1_000_000
	if invariant.Debug {
		n = 50_000
	}
	ops := make([]Op, n)
	for i := range ops {
		ops[i] = Op{Key: fmt.Appendf(nil, "key%09d", i), Value: fmt.Appendf(nil, "value%d", i)}
	}
	start := time.Now()
	require.NoError(t, tr.Apply(ops))
	t.Logf("first: %v", time.Since(start))
	start = time.Now()
	require.NoError(t, tr.Apply(ops))
	t.Logf("again: %v", time.Since(start))
	require.NoError(t, tr.Check())
	it := tr.Scan(nil, nil)
	found := 0
	for it.Next() {
		found++
	}
	require.NoError(t, it.Close())
	require.Equal(t, len(ops), found)
	m := tr.Metrics()
	t.Logf("pages %d, splits %d+%d, growths %d", m.Cache.Pages, m.LeafSplits, m.InnerSplits, m.RootGrowths)
}

func TestBatchErrors(t *testing.T) {
	tr := openTree(t, tiny())
	require.NoError(t, tr.Apply(nil))
	require.ErrorIs(t, tr.Apply([]Op{{Key: []byte("b")}, {Key: []byte("a")}}), ErrUnsorted)
	require.ErrorIs(t, tr.Apply([]Op{{Key: []byte("a")}, {Key: []byte("a")}}), ErrUnsorted)
	require.ErrorIs(t, tr.Apply([]Op{{Key: make([]byte, MaxKeyBytes+1)}}), ErrTooLarge)
	ok, err := tr.Has([]byte("a"))
	require.NoError(t, err)
	require.False(t, ok)
}

// Wherever a node is cut, the pieces make progress, are whole and hold the same
// (T8).
func TestCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(genKey(), 1, 40, rapid.ID[string]).Draw(t, "keys")
		slices.Sort(keys)
		var changes []change
		for _, k := range keys {
			size := rapid.SampledFrom([]int{0, 1, 10, 60, 300}).Draw(t, "size")
			changes = append(changes, change{key: []byte(k), value: bytes.Repeat([]byte("v"), size)})
		}
		m := new(merger)
		out, err := m.merge(nil, emptyLeaf(), []pagecache.Fragment{{Data: appendRun(nil, kindLeafRun, changes), Stamp: 1}}, rule{})
		require.NoError(t, err)
		n := node(out)
		m.after, m.before, m.changedKeys = rapid.IntRange(0, 1).Draw(t, "after")*2, rapid.IntRange(0, 1).Draw(t, "before")*2, 2
		cuts := m.cuts(n, 256)
		if len(keys) > 1 {
			require.NotEmpty(t, cuts)
		} else {
			require.Empty(t, cuts)
		}
		last, count := 0, 0
		for _, cut := range append(cuts, n.count()) {
			require.Greater(t, cut, last)
			meta := n.meta()
			meta.root, meta.generation = false, 0
			if last > 0 {
				meta.lo = separatorAt(n, last)
			}
			if cut < n.count() {
				meta.hi, meta.last, meta.right = separatorAt(n, cut), false, 99
			}
			piece := node(new(splitRoom).piece(n, last, cut, meta))
			require.NoError(t, piece.validate())
			for i := range piece.count() {
				require.Equal(t, n.appendKey(nil, last+i), piece.appendKey(nil, i))
			}
			count += piece.count()
			last = cut
		}
		require.Equal(t, n.count(), count)
	})
}

// Old versions of a key stay in one leaf, however many there are.
func TestManyVersions(t *testing.T) {
	tr := openTree(t, tiny())
	var scans []*Iterator
	for i := range 300 {
		require.NoError(t, tr.Set([]byte("key"), fmt.Appendf(nil, "%d", i)))
		require.NoError(t, tr.Set(fmt.Appendf(nil, "other%d", i), nil))
		scans = append(scans, tr.Scan([]byte("key"), []byte("key\x00")))
	}
	require.NoError(t, tr.Check())
	for i, it := range scans {
		require.True(t, it.Last())
		require.Equal(t, fmt.Sprint(i), string(it.Value()))
		require.False(t, it.Next())
		require.NoError(t, it.Close())
	}
	for i := range 10 {
		require.NoError(t, tr.Set([]byte("key"), fmt.Appendf(nil, "%d", i)))
	}
	n, err := tr.merged(leafOfKey(t, tr, "key"))
	require.NoError(t, err)
	require.False(t, n.versioned(), "%v", n)
}

// A key with more versions than one record of the log holds does not keep others from
// being split. Its leaf could not be written merged, nor split: all that was set beside it
// went there, as long as somebody saw the versions.
func TestVersionsBeyondOneRecord(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	var moments []*Moment
	number := func(i int) string { return fmt.Sprintf("%060d", i) }
	for i := 0; i*60 < 2*tr.cache.MaxFragment(); i++ {
		set(t, tr, "m", number(i))
		moments = append(moments, tr.OpenMoment())
	}
	for i := range 100 {
		set(t, tr, fmt.Sprintf("l%03d", i), "below")
		set(t, tr, fmt.Sprintf("n%03d", i), "above")
	}
	require.NotEqual(t, leafOfKey(t, tr, "m"), leafOfKey(t, tr, "l099"))
	require.NotEqual(t, leafOfKey(t, tr, "m"), leafOfKey(t, tr, "n000"))
	require.Greater(t, pages(tr), uint64(20))
	require.NoError(t, tr.Check())
	for i, m := range moments {
		v, err := tr.GetAt(m, nil, []byte("m"))
		require.NoError(t, err)
		require.Equal(t, number(i), string(v))
		m.Close()
	}
	set(t, tr, "m", "last")
	require.Len(t, rows(t, tr.Scan(nil, nil)), 201)
	require.NoError(t, tr.Check())
}

// What a leaf amounts to is never taken for less than it is. Each change of a row took
// the row's bytes off once more, until the sum was negative and a join went on beyond
// the last leaf.
func TestMergedBytes(t *testing.T) {
	o := tiny()
	o.MaxNodeBytes, o.ChunkBytes, o.Cache.MergeDeltas = 4096, 1024, 8
	tr := openTree(t, o)
	for range 8 {
		require.NoError(t, tr.Set([]byte("a"), make([]byte, 900)))
	}
	pid, deltas := leafOfKey(t, tr, "a"), 0
	for i := range 20 {
		require.NoError(t, tr.Set([]byte("a"), []byte("short")))
		pinned(tr, func(g epoch.Guard) {
			v, err := tr.cache.Peek(g, pid)
			require.NoError(t, err)
			m := newMerger()
			defer m.release()
			n, err := m.mergeView(nil, v, folder{})
			require.NoError(t, err)
			require.GreaterOrEqual(t, mergedBytes(v), len(n), "change %d", i)
			deltas = max(deltas, v.Deltas())
		})
		_, err := tr.tryJoin(pid)
		require.NoError(t, err)
	}
	require.Greater(t, deltas, 4)
}

func leafOfKey(t *testing.T, tr *Tree, key string) PID {
	g, p, err := tr.locate(0, &seek{key: []byte(key)}, 0)
	require.NoError(t, err)
	defer g.Unpin()
	return p.view.PID()
}

// A large value's chunks are freed when its last version goes (T7).
func TestChunksAreFreed(t *testing.T) {
	fs := vfs.NewMem()
	tr := openTree(t, tinyOnDisk(fs))
	for i := range 200 {
		require.NoError(t, tr.Set([]byte("key"), value(fmt.Sprint(i), 2000)))
		if i%3 == 0 {
			it := tr.Scan(nil, nil)
			require.NoError(t, tr.Set([]byte("key"), nil))
			require.True(t, it.First())
			require.Equal(t, string(value(fmt.Sprint(i), 2000)), string(it.Value()))
			require.NoError(t, it.Close())
		}
	}
	m := tr.Metrics()
	require.Less(t, m.Cache.Pages, uint64(300), "%d pages, %d free", m.Cache.Pages, m.Cache.FreePages)
	require.NoError(t, tr.Check())
}
