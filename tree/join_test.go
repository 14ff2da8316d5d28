package tree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

// joinAll joins what is thin, until nothing is.
func joinAll(t testing.TB, tr *Tree) {
	t.Helper()
	require.Eventually(t, func() bool { return tr.thin.count.Load() == 0 }, 30*time.Second, time.Millisecond)
	tr.joiner.mu.Lock() // the last one taken
	tr.joiner.mu.Unlock()
}

// pages is how many pages the tree has.
func pages(tr *Tree) uint64 { return tr.cache.Metrics().Pages }

// Leaves that deletions have thinned or emptied are joined, and the inner nodes
// above them: few pages are left of many, and what is left is found.
func TestJoins(t *testing.T) {
	for name, empty := range map[string]func(tr *Tree, keep func(i int) bool, keys int) error{
		"one by one": func(tr *Tree, keep func(i int) bool, keys int) error {
			for i := range keys {
				if !keep(i) {
					if err := tr.Delete(fmt.Appendf(nil, "%05d", i)); err != nil {
						return err
					}
				}
			}
			return nil
		},
		"ranges": func(tr *Tree, keep func(i int) bool, keys int) error {
			for from := 0; from < keys; {
				to := from
				for to < keys && !keep(to) {
					to++
				}
				if err := tr.DeleteRange(fmt.Appendf(nil, "%05d", from), fmt.Appendf(nil, "%05d", to)); err != nil {
					return err
				}
				from = to + 1
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := tinyOnDisk(vfs.NewMem())
			o.Cache.CacheSize = 512 << 10
			tr := openTree(t, o)
			keys := 6000
			if invariant.Debug {
				keys = 2000
			}
			for i := range keys {
				require.NoError(t, tr.Set(fmt.Appendf(nil, "%05d", i*7919%keys), []byte("some value or other")))
			}
			full := pages(tr)
			keep := func(i int) bool { return i%500 == 0 }
			require.NoError(t, empty(tr, keep, keys))
			// Deltas that are few stay on a leaf until it is folded.
			require.Eventually(t, func() bool {
				it := tr.Scan(nil, nil)
				for it.Next() {
				}
				require.NoError(t, it.Close())
				joinAll(t, tr)
				return pages(tr) <= full/8
			}, 60*time.Second, time.Millisecond, "of %d pages", full)
			m := tr.Metrics()
			require.NotZero(t, m.LeafJoins)
			require.NotZero(t, m.InnerJoins)
			require.NoError(t, tr.Check())
			for i := range keys {
				_, found := get(t, tr, fmt.Sprintf("%05d", i))
				require.Equal(t, keep(i), found, "%d", i)
			}
			require.NoError(t, tr.Close())
			tr = openTree(t, o)
			require.NoError(t, tr.Check())
			require.Len(t, rows(t, tr.Scan(nil, nil)), keys/500)
		})
	}
}

// Leaves are joined however long their fences are, and so are the nodes above. Fences
// counted as content: a store whose keys begin alike for a quarter of a node, or more, kept
// all its pages when it was emptied.
func TestJoinsWithLongFences(t *testing.T) {
	for _, prefix := range []int{60, 300} {
		tr := openTree(t, tiny())
		key := func(i int) []byte { return fmt.Appendf(nil, "%0*d", prefix+4, i) }
		for i := range 200 {
			require.NoError(t, tr.Set(key(i), []byte("value")))
		}
		inUse := func() (n int) {
			for pid := PID(1); pid <= tr.cache.MaxPID(); pid++ {
				if _, ok := tr.cache.InUse(pid); ok {
					n++
				}
			}
			return n
		}
		full := inUse()
		require.NoError(t, tr.DeleteRange(nil, key(100)))
		require.NoError(t, tr.DeleteRange(key(101), nil))
		require.Eventually(t, func() bool {
			joinAll(t, tr)
			return inUse() < 20
		}, 30*time.Second, time.Millisecond, "%d: of %d pages", prefix, full)
		require.NoError(t, tr.Check())
		require.Len(t, rows(t, tr.Scan(nil, nil)), 1)
	}
}

// Filling and emptying a store again and again leaves it as small as the first time,
// once what has few deltas is folded and joined.
func TestFillAndEmptyCycles(t *testing.T) {
	o := tinyOnDisk(vfs.NewMem())
	o.Cache.CacheSize = 512 << 10
	// In a node of 256 bytes the header and the fences alone may be more than a
	// quarter.
	o.MaxNodeBytes = 512
	tr := openTree(t, o)
	keys, cycles := 1000, 24
	if invariant.Debug {
		keys, cycles = 400, 4
	}
	for cycle := range cycles {
		for i := range keys {
			require.NoError(t, tr.Set(fmt.Appendf(nil, "%03d/%05d", cycle%3, i*7919%keys), []byte("some value or other")))
		}
		full := pages(tr)
		for i := range keys {
			require.NoError(t, tr.Delete(fmt.Appendf(nil, "%03d/%05d", cycle%3, i)))
		}
		require.Eventually(t, func() bool {
			it := tr.Scan(nil, nil)
			defer it.Close()
			return !it.Next() && pages(tr) <= 20+full/10
		}, 60*time.Second, time.Millisecond, "cycle %d: %d pages when full", cycle, full)
	}
	require.NoError(t, tr.Check())
}

// An iterator that goes on where a leaf was, a writer that comes back to one, and a
// commit that has seen one, find their way when it was joined away meanwhile, and
// when its PID is another page by then.
func TestJoinedMeanwhile(t *testing.T) {
	o := tiny()
	o.MaxNodeBytes = 512
	tr := openTree(t, o)
	set := func(i int) { require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), bytes.Repeat([]byte("v"), 40))) }
	for i := range 400 {
		set(i)
	}
	it := tr.Scan(nil, nil)
	defer it.Close()
	require.True(t, it.Next())
	hint := it.leaf.right()
	require.NotZero(t, hint)
	for i := range 400 {
		if i%50 > 0 {
			require.NoError(t, tr.Delete(fmt.Appendf(nil, "%04d", i)))
		}
	}
	gone := func() bool {
		g := tr.cache.Pin()
		defer g.Unpin()
		_, err := tr.cache.View(g, hint)
		return err == pagecache.ErrGone
	}
	// The iterator keeps what was deleted, so that nothing is thin before it is
	// closed; another one at the same place stands for it.
	second := tr.Scan([]byte("0001"), nil)
	second.leaf, second.fence = it.leaf, nil
	require.NoError(t, it.Close())
	second.Close()
	require.Eventually(t, func() bool {
		rest := tr.Scan(nil, nil)
		for rest.Next() {
		}
		rest.Close()
		joinAll(t, tr)
		return gone()
	}, 30*time.Second, time.Millisecond)

	s := seek{key: []byte("0350")}
	for _, used := range []string{"free", "used again"} {
		g, p, err := tr.locate(hint, &s, 0)
		require.NoError(t, err, used)
		contains := p.node.contains(s.key)
		g.Unpin()
		require.True(t, contains)
		c := &commit{t: tr, w: &Writes{}, r: &Reads{}}
		pid, absent, err := c.leafOf(&scoutedLeaf{start: s.key, pid: hint, version: 1, last: true}, s.key)
		require.NoError(t, err)
		require.Zero(t, absent)
		require.NotEqual(t, hint, pid)
		u := tr.cache.Begin()
		_, _, err = tr.own(u, hint, &s, 0)
		u.Discard()
		require.Equal(t, errStale, err, used)
		// Chunks take all PIDs there are.
		require.NoError(t, tr.Set([]byte("large"), bytes.Repeat([]byte("large"), 4000)))
		require.Eventually(t, func() bool { tr.cache.Pin().Unpin(); return true }, time.Second, time.Millisecond)
	}
	require.NoError(t, tr.Check())
}

// Readers, writers, scans both ways, transactions and blind updates go on beside
// joins and splits of the leaves they are in; readers of a moment see what they saw.
func TestJoinsBesideAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	fs := vfs.NewMem()
	const writers, keys = 3, 300
	turns := 5
	if invariant.Debug {
		turns = 1
	}
	for round := range 2 {
		tr, err := Open(tinyOnDisk(fs))
		require.NoError(t, err)
		var stop atomic.Bool
		var writing, reading sync.WaitGroup
		for w := range writers {
			r := rand.New(rand.NewPCG(seed, uint64(round*writers+w)))
			writing.Go(func() {
				key := func(i int) []byte { return fmt.Appendf(nil, "%04d/%d", i, w) }
				have := map[int]string{}
				for turn := range 2 * turns {
					for range 2 * keys {
						i := r.IntN(keys)
						var err error
						switch filling := turn%2 == 0; {
						case filling:
							have[i] = fmt.Sprintf("%d.%d", turn, i)
							err = tr.Set(key(i), []byte(have[i]))
						case r.IntN(40) == 0:
							to := i + r.IntN(20)
							ops := []Op{}
							for k := i; k < min(to, keys); k++ {
								delete(have, k)
								ops = append(ops, Op{Kind: OpDelete, Key: key(k)})
							}
							err = tr.Apply(ops)
						default:
							delete(have, i)
							err = tr.Delete(key(i))
						}
						if err != nil {
							t.Error(err)
							return
						}
						k := r.IntN(keys)
						got, err := tr.GetTo(nil, key(k))
						if want, ok := have[k]; ok != (err == nil) || string(got) != want || err != nil && err != ErrNotFound {
							t.Errorf("%s = %q, %v; want %q, %t", key(k), got, err, want, ok)
							return
						}
					}
				}
				for i := range keys {
					if err := tr.Delete(key(i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range 2 {
			reading.Go(func() {
				for backwards := false; !stop.Load(); backwards = !backwards {
					m := tr.OpenMoment()
					var seen [2][]string
					for n := range seen {
						it := tr.ScanAt(m, nil, nil)
						move := it.Next
						if backwards {
							move = it.Prev
						}
						for move() {
							seen[n] = append(seen[n], string(it.Key())+"="+string(it.Value()))
						}
						if err := it.Close(); err != nil {
							t.Error(err)
						}
						backwards = !backwards
					}
					slices.Reverse(seen[1])
					if !slices.Equal(seen[0], seen[1]) {
						t.Errorf("one moment shows %d rows one way and %d the other", len(seen[0]), len(seen[1]))
					}
					m.Close()
				}
			})
		}
		writing.Wait()
		stop.Store(true)
		reading.Wait()
		require.NoError(t, tr.Check())
		require.Empty(t, rows(t, tr.Scan(nil, nil)))
		joinAll(t, tr)
		if m := tr.Metrics(); m.LeafJoins == 0 {
			t.Error("nothing was joined")
		}
		require.NoError(t, tr.Close())
	}
}
