package tree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

// Blind updates beside splits of the leaves they go to: each lands where it is
// found again (T2), in memory and after a restart.
func TestBlindUpdates(t *testing.T) {
	const writers, keys = 4, 1500
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldHook = func(yieldPoint) {
		if n := rand.IntN(40); n == 0 {
			time.Sleep(20 * time.Microsecond)
		} else if n < 10 {
			runtime.Gosched()
		}
	}
	t.Cleanup(func() { yieldHook = nil })
	fs := vfs.NewMem()
	var last [writers][keys]int
	key := func(w, i int) []byte { return fmt.Appendf(nil, "%05d/%d", i*7919%10007, w) }
	blind, splits := uint64(0), uint64(0)
	for round := range 3 {
		tr, err := Open(tinyOnDisk(fs))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for w := range writers {
			rng := rand.New(rand.NewPCG(seed, uint64(round*writers+w)))
			wg.Go(func() {
				for n := range 3000 {
					i := rng.IntN(keys * (round + 1) / 3)
					var err error
					if rng.IntN(4) == 0 {
						last[w][i] = 0
						err = tr.Delete(key(w, i))
					} else {
						last[w][i] = round*3000 + n + 1
						err = tr.Set(key(w, i), fmt.Appendf(nil, "%d", last[w][i]))
					}
					if err != nil {
						t.Errorf("%v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, tr.Check())
		m := tr.Metrics()
		blind, splits = blind+m.BlindUpdates, splits+m.LeafSplits
		require.NoError(t, tr.Close())
		tr, err = Open(tinyOnDisk(fs))
		require.NoError(t, err)
		for w := range writers {
			for i, want := range last[w] {
				got, ok := get(t, tr, string(key(w, i)))
				require.Equal(t, want != 0, ok, "%s", key(w, i))
				if ok {
					require.Equal(t, fmt.Sprint(want), got)
				}
			}
		}
		require.NoError(t, tr.Check())
		require.NoError(t, tr.Close())
	}
	t.Logf("%d blind updates, %d splits", blind, splits)
	require.NotZero(t, blind)
}

// Set, Delete, Merge and a Set of a large value on leaves that are not in memory
// read none of them, also when the inner nodes have to be read first, and also
// under the writer bit.
func TestBlindUpdatesReadNoLeaf(t *testing.T) {
	for _, owned := range []bool{false, true} {
		t.Run(fmt.Sprintf("owned %v", owned), func(t *testing.T) { blindReadNoLeaf(t, owned) })
	}
}

func blindReadNoLeaf(t *testing.T, owned bool) {
	const keys = 2000
	fs := vfs.NewMem()
	o := tinyOnDisk(fs)
	o.Cache.CacheSize, o.Cache.BufferBytes, o.Merger = 16<<20, 16<<10, appendMerger
	o.Cache.LoadReads = 16 // more than a leaf has updates
	key := func(i int) []byte { return fmt.Appendf(nil, "%05d", i) }
	tr, err := Open(o)
	require.NoError(t, err)
	for i := range keys {
		require.NoError(t, tr.Set(key(i), []byte("old")))
	}
	require.NoError(t, tr.Close())
	tr, err = Open(o)
	require.NoError(t, err)
	defer func() { require.NoError(t, tr.Close()) }()

	large := bytes.Repeat([]byte("x"), 4*tr.inlineMax)
	add := func(k, delta []byte, x expectation) error {
		_, done, err := tr.addOwned(&addition{key: k, delta: delta, hint: hintOf(k), expect: x}, 0)
		require.True(t, done || err != nil)
		return err
	}
	want := map[string]string{}
	for i := range keys {
		want[string(key(i))] = "old"
	}
	for i := 0; i < keys; i += 10 {
		k := key(i)
		var err error
		switch i / 10 % 5 {
		case 0:
			want[string(k)] = "new"
			if owned {
				err = add(k, appendOne(nil, kindLeafOne, 0, k, []byte("new")), expectation{})
			} else {
				err = tr.Set(k, []byte("new"))
			}
		case 1, 2:
			if i/10%5 == 2 {
				k = append(k, "absent"...)
			}
			delete(want, string(k))
			if owned {
				err = add(k, appendOne(nil, kindLeafOne, entryTombstone, k, nil), expectation{kind: expectPresent})
			} else {
				err = tr.Delete(k)
			}
		case 3:
			want[string(k)] += "+"
			err = tr.Merge(k, []byte("+"))
		case 4:
			want[string(k)] = string(large)
			err = tr.Set(k, large)
		}
		require.NoError(t, err)
	}
	m := tr.Metrics()
	require.EqualValues(t, keys/10, m.BlindUpdates)
	inner := 0
	for pid := PID(1); ; pid++ {
		var err error
		pinned(tr, func(g epoch.Guard) {
			var v pagecache.View
			if v, err = tr.cache.View(g, pid); err != nil || !v.Resident() {
				return
			}
			if n, err := asNode(v.Base()); err == nil {
				require.False(t, n.isLeaf(), "page %d is in memory", pid)
				inner++
			}
		})
		if err != nil {
			break
		}
	}
	require.NotZero(t, inner)
	// A page that the cleaner moves while it is read is read again.
	require.GreaterOrEqual(t, m.Cache.Loads, uint64(inner), "loads")
	require.Less(t, m.Cache.Loads, uint64(2*inner), "loads")

	got := map[string]string{}
	it := tr.Scan(nil, nil)
	for it.Next() {
		got[string(it.Key())] = string(it.Value())
	}
	require.NoError(t, it.Close())
	require.Equal(t, want, got)
	require.NoError(t, tr.Check())
}

// A delete of a key that its leaf, which is in memory, lacks writes nothing.
func TestDeleteOfAbsentKey(t *testing.T) {
	tr, err := Open(tinyOnDisk(vfs.NewMem()))
	require.NoError(t, err)
	defer func() { require.NoError(t, tr.Close()) }()
	require.NoError(t, tr.Set([]byte("a"), []byte("1")))
	before := tr.cache.LogTail()
	require.NoError(t, tr.Delete([]byte("b")))
	require.Equal(t, before, tr.cache.LogTail())
	require.NoError(t, tr.Delete([]byte("a")))
	require.Less(t, before, tr.cache.LogTail())
}
