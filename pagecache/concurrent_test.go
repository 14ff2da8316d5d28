package pagecache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// TestConcurrentCounters has goroutines add to counters of shared pages, one page
// at a time and several at once, while pages are evicted, checkpointed, allocated
// and freed. No addition may be lost or come twice, before and after a restart.
func TestConcurrentCounters(t *testing.T) {
	const pages, workers = 12, 8
	rounds := 3000
	if invariant.Debug {
		rounds = 500
	}
	fs := vfs.NewMem()
	c := mustOpen(t, tiny(fs, counterPages{}))
	var pids [pages]PID
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate(nil)
		require.NoError(t, err)
	}
	var want [pages]atomic.Int64
	stop := make(chan struct{})
	var side sync.WaitGroup
	side.Go(func() { disturb(t, c, stop) })
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			for range rounds {
				n := int64(rng.IntN(1000))
				switch i, j := rng.IntN(pages), rng.IntN(pages); {
				case rng.IntN(4) == 0 && i != j:
					move(t, c, pids[min(i, j)], pids[max(i, j)], w, n)
					want[min(i, j)].Add(n)
					want[max(i, j)].Add(-n)
				default:
					addOnce(t, c, pids[i], w, n)
					want[i].Add(n)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	side.Wait()
	check := func() {
		for i, pid := range pids {
			page, _, err := c.Get(pid)
			require.NoError(t, err)
			sum := int64(0)
			for w := range workers {
				sum += counterOf(page, w)
			}
			require.Equal(t, want[i].Load(), sum, "page %d", pid)
		}
	}
	check()
	require.NoError(t, c.Close())
	c = mustOpen(t, tiny(fs, counterPages{}))
	check()
	require.NoError(t, c.Close())
}

// addOnce adds with the Key of a Get, again if the page changed meanwhile.
func addOnce(t *testing.T, c *Cache, pid PID, counter int, n int64) {
	for {
		_, key, err := c.Get(pid)
		if err == nil {
			_, err = c.Merge(pid, key, addTo(counter, n))
		}
		if err == nil {
			return
		}
		if !errors.Is(err, ErrChanged) {
			t.Errorf("add: %v", err)
			return
		}
	}
}

// move adds to one page and takes from another in one Update.
func move(t *testing.T, c *Cache, first, second PID, counter int, n int64) {
	u := c.Begin()
	a, err := u.Acquire(first)
	if err == nil {
		u.Append(a, addTo(counter, n), 0)
		var b View
		if b, err = u.Acquire(second); err == nil {
			u.Append(b, addTo(counter, -n), 0)
		}
	}
	if err != nil {
		u.Discard()
		t.Errorf("move: %v", err)
		return
	}
	r, err := u.Commit()
	if err != nil || r.Outcome != Done {
		t.Errorf("move: %v %v", r.Outcome, err)
	}
}

// disturb evicts, checkpoints, allocates and frees until stopped.
func disturb(t *testing.T, c *Cache, stop chan struct{}) {
	type page struct {
		pid PID
		key Key
	}
	var mine []page
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		c.evictAll()
		pid, key, err := c.Allocate(binary.LittleEndian.AppendUint64(nil, uint64(i)))
		if err != nil {
			t.Errorf("allocate: %v", err)
			return
		}
		mine = append(mine, page{pid, key})
		if len(mine) > 10 {
			if err := c.Free(mine[0].pid, mine[0].key); err != nil {
				t.Errorf("free: %v", err)
			}
			mine = mine[1:]
		}
		if i%8 == 0 {
			if err := c.writeCheckpoint(); err != nil {
				t.Errorf("checkpoint: %v", err)
			}
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// TestUpdateIsSeenWhole moves one number through two pages in Updates; readers
// who saw it in the first page must find it in the second.
func TestUpdateIsSeenWhole(t *testing.T) {
	c := mustOpen(t, tiny(vfs.NewMem(), counterPages{}))
	defer c.Close()
	a, _, err := c.Allocate(nil)
	require.NoError(t, err)
	b, _, err := c.Allocate(nil)
	require.NoError(t, err)
	rounds := 4000
	if invariant.Debug {
		rounds = 800
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for range rounds {
			u := c.Begin()
			va, _ := u.Acquire(a)
			vb, _ := u.Acquire(b)
			u.Append(va, addTo(0, 1), 0)
			u.Append(vb, addTo(0, 1), 0)
			if _, err := u.Commit(); err != nil {
				t.Errorf("commit: %v", err)
				return
			}
			for _, pid := range []PID{a, b} {
				g := c.Pin()
				if err := c.Maintain(g, pid); err != nil {
					t.Errorf("maintain: %v", err)
				}
				g.Unpin()
			}
		}
	})
	for r := range 2 {
		wg.Go(func() {
			first, second := a, b
			if r == 1 {
				first, second = b, a
			}
			for {
				select {
				case <-done:
					return
				default:
				}
				x, _, err1 := c.Get(first)
				y, _, err2 := c.Get(second)
				if err1 != nil || err2 != nil {
					t.Errorf("get: %v %v", err1, err2)
					return
				}
				if counterOf(x, 0) > counterOf(y, 0) {
					t.Errorf("saw %d in the first page and then %d in the second", counterOf(x, 0), counterOf(y, 0))
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestMomentsNeverChange reads stamps at a moment again and again while deltas
// are appended: the set of deltas that the moment sees must stay the same.
func TestMomentsNeverChange(t *testing.T) {
	o := tiny(vfs.NewMem(), stringPages{})
	o.MergeDeltas = 1 << 30
	c := mustOpen(t, o)
	defer c.Close()
	pid, _, err := c.Allocate(nil)
	require.NoError(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			g := c.Pin()
			v, err := c.View(g, pid)
			if err == nil && v.Deltas() > 64 {
				u := c.Begin()
				u.Replace(v, nil)
				_, err = u.Commit()
			} else if err == nil {
				_, err = c.Append(g, v, []byte("x"), 0)
			}
			g.Unpin()
			if err != nil {
				t.Errorf("append: %v", err)
				return
			}
		}
	})
	for range 2000 {
		m := c.OpenMoment()
		seen := -1
		for range 3 {
			newest := 0
			pinned(c, func(g epoch.Guard) {
				v, err := c.View(g, pid)
				require.NoError(t, err)
				for d := v.Newest(); d.Valid(); d = d.Older() {
					if stamp, visible := d.Stamp(); visible && stamp <= m.Stamp() {
						newest = int(d.node.version)
						break
					}
				}
			})
			if seen >= 0 && newest != 0 && newest > seen {
				t.Fatalf("the moment saw version %d and then %d", seen, newest)
			}
			if newest != 0 || seen < 0 {
				seen = max(newest, 0)
			}
			if newest == 0 {
				break // replaced by a new base meanwhile
			}
		}
		m.Close()
	}
	close(stop)
	wg.Wait()
}

// TestAppendDoesNotAllocate: an update of a resident page makes no garbage.
func TestAppendDoesNotAllocate(t *testing.T) {
	if invariant.Debug {
		t.Skip("debug builds allocate page memory on the Go heap")
	}
	c, err := Open(Options{Dir: t.TempDir(), Materializer: stringPages{}})
	require.NoError(t, err)
	defer c.Close()
	pid, _, err := c.Allocate([]byte("base"))
	require.NoError(t, err)
	delta := make([]byte, 100)
	n := testing.AllocsPerRun(20, func() {
		g := c.Pin()
		v, err := c.View(g, pid)
		if err != nil {
			t.Error(err)
		}
		if r, err := c.Append(g, v, delta, 0); err != nil || r.Outcome != Done {
			t.Error(r, err)
		}
		g.Unpin()
	})
	require.Zero(t, n)
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, err := Open(Options{InMemory: true, Materializer: setPages{}})
			require.NoError(b, err)
			defer c.Close()
			var pids [1000]PID
			for i := range pids {
				pids[i], _, _ = c.Allocate(make([]byte, 4096))
			}
			delta := make([]byte, size)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				g := c.Pin()
				v, _ := c.View(g, pids[i%len(pids)])
				r, _ := c.Append(g, v, delta, 0)
				if r.Deltas >= 24 {
					_ = c.Maintain(g, v.PID())
				}
				g.Unpin()
			}
		})
	}
}

// setPages keeps the base: its deltas have no effect.
type setPages struct{}

func (setPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	return append(dst, m.Fragments[0].Data...), nil
}

func (setPages) Recover([]byte) (Recovery, bool) { return Recovery{}, false }
