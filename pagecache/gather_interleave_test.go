package pagecache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/interleave"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A gathering is a run in which absent pages are gathered while they are appended to,
// loaded, split, evicted and cleaned. Each worker adds to a counter of its own: what
// the pages hold of it in the end must be what was added, no more and no less (P1).
type gathering struct {
	cache    *Cache
	mu       sync.Mutex
	pids     []PID    // Guarded by mu. Splits add to them.
	want     []int64  // by counter; each of one worker
	wrong    []string // Guarded by mu.
	steps    int
	gathered uint64 // pages
}

const (
	gatheringPages   = 3
	gatheringWriters = 2
	gatheringOps     = 20
)

func (x *gathering) check(err error) {
	if err != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.wrong = append(x.wrong, err.Error())
	}
}

func (x *gathering) any(r *rand.Rand) PID {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.pids[r.IntN(len(x.pids))]
}

// interleaveGathering is one run, in an order that follows from the seed.
func interleaveGathering(t *testing.T, seed uint64) *gathering {
	x := &gathering{want: make([]int64, gatheringWriters+1)}
	fs := vfs.NewMem()
	o := tiny(fs, counterPages{})
	o.MergeDeltas, o.LoadReads, o.RewriteShare, o.CacheSize = 50, 16, 100_000, 512<<10
	var crashed []*vfs.Mem
	x.steps = interleave.Run(t, seed, func(t *testing.T) (workers []func(), after func()) {
		x.cache = mustOpen(t, o)
		random := rand.New(rand.NewPCG(seed, 1))
		for range gatheringPages {
			pid, _ := mustAllocate(t, x.cache, "")
			x.pids = append(x.pids, pid)
			for range 2 + random.IntN(4) {
				x.check(x.addUnread(pid, gatheringWriters))
				x.cache.evictAll()
			}
		}
		x.check(x.cache.Sync())
		act := func(stream uint64, n int, do func(r *rand.Rand)) {
			r := rand.New(rand.NewPCG(seed, stream))
			workers = append(workers, func() {
				for range n {
					do(r)
				}
			})
		}
		for w := range gatheringWriters {
			act(uint64(w)+2, gatheringOps, func(r *rand.Rand) {
				switch pid := x.any(r); r.IntN(8) {
				case 0, 1:
					_, _, err := x.cache.Get(pid)
					x.check(err)
				case 2:
					x.check(x.split(pid))
				default:
					x.check(x.addUnread(pid, w))
				}
			})
		}
		act(20, 2*gatheringOps, func(r *rand.Rand) { x.evict(x.any(r)) })
		act(21, gatheringOps, func(r *rand.Rand) {
			if pid := x.any(r); r.IntN(3) > 0 {
				x.cache.gatherPage(pid)
			} else {
				x.cache.MergeSoon(pid)
			}
		})
		act(22, 2, func(*rand.Rand) { x.clean() })
		act(24, gatheringOps, func(r *rand.Rand) { // what was moved is durable before what is fresh, as a rule
			l, s := x.cache.log, log.Survivors
			if r.IntN(8) == 0 {
				s = log.Fresh
			}
			x.check(l.WaitDurable(s, l.Tail(s)))
		})
		act(23, 3, func(r *rand.Rand) {
			for range r.IntN(30) {
				yield(yieldSpin) // until others have gone on
			}
			crashed = append(crashed, fs.CrashClone(r.Int64()))
		})
		return workers, func() {
			crashed = append(crashed, fs.CrashClone(int64(seed)))
			x.sum(t, "at the end")
		}
	})
	// The codec of page-table snapshots is for all bubbles, and so in none.
	if len(x.wrong) == 0 {
		x.cache = mustOpen(t, o)
		x.sum(t, "after a restart")
		for _, o.FS = range crashed {
			x.crashed(t, o)
		}
	}
	return x
}

// addUnread appends to a page whether it is in memory or not.
func (x *gathering) addUnread(pid PID, counter int) (err error) {
	for done := false; !done && err == nil; {
		pinned(x.cache, func(g epoch.Guard) {
			var v View
			var r Result
			if v, err = x.cache.Peek(g, pid); err == nil {
				r, err = x.cache.Append(g, v, addTo(counter, 1), 0)
			}
			done = r.Outcome == Done
		})
	}
	if err != nil {
		return fmt.Errorf("add to page %d: %w", pid, err)
	}
	x.want[counter]++
	return nil
}

// split moves the counters above the first to a new page, if nobody is quicker.
func (x *gathering) split(pid PID) error {
	page, key, err := x.cache.Get(pid)
	if err != nil {
		return err
	}
	u := x.cache.Begin()
	v, err := u.Acquire(pid)
	if err != nil || v.Version() != key.Version() {
		u.Discard()
		return err
	}
	right := append(make([]byte, 8), page[min(8, len(page)):]...)
	fresh, err := u.Allocate(right)
	if err != nil {
		u.Discard()
		return err
	}
	u.Replace(v, page[:min(8, len(page))])
	r, err := u.Commit()
	if err == nil && r.Outcome == Done {
		x.mu.Lock()
		x.pids = append(x.pids, fresh)
		x.mu.Unlock()
	}
	return err
}

func (x *gathering) evict(pid PID) {
	pinned(x.cache, func(g epoch.Guard) {
		if v, ok := x.cache.evictable(pid); ok {
			x.cache.evictPage(g, v, false)
		}
	})
}

func (x *gathering) clean() {
	for _, s := range x.cache.log.Segments() {
		if s.End != 0 && s.Live != 0 {
			lock(&x.cache.clean.mu)
			err := x.cache.cleanSegment(s.Base)
			x.cache.clean.mu.Unlock()
			x.check(err)
		}
	}
}

// sum looks at what there is, and closes the cache.
func (x *gathering) sum(t *testing.T, when string) {
	got := make([]int64, len(x.want))
	for _, pid := range x.pids {
		page, _, err := x.cache.Get(pid)
		x.check(err)
		for counter := range got {
			got[counter] += counterOf(page, counter)
		}
	}
	if !slices.Equal(got, x.want) {
		x.check(fmt.Errorf("%s the counters are %d, not %d", when, got, x.want))
	}
	if len(x.wrong) == 0 {
		accountsFit(t, x.cache)
	}
	x.gathered += x.cache.Metrics().Gathered
	x.check(x.cache.Close())
}

// crashed looks at what a loss of power on the way has left: all that was durable
// before the workers began, wherever it was moved to, and of the rest no more than
// there was.
func (x *gathering) crashed(t *testing.T, o Options) {
	if len(x.wrong) > 0 {
		return
	}
	c := mustOpen(t, o)
	got := make([]int64, len(x.want))
	for _, pid := range x.pids {
		page, _, err := c.Get(pid)
		if err != nil && !errors.Is(err, ErrGone) {
			x.check(err)
		}
		for counter := range got {
			got[counter] += counterOf(page, counter)
		}
	}
	for counter, n := range got {
		if n > x.want[counter] || counter == gatheringWriters && n < x.want[counter] {
			x.check(fmt.Errorf("after a crash the counters are %d, and were %d", got, x.want))
		}
	}
	accountsFit(t, c)
	x.check(c.Close())
}

// TestGatherInterleavings searches the interleavings of gathering and all else that
// happens to a page.
func TestGatherInterleavings(t *testing.T) {
	runs := uint64(150)
	if invariant.Debug {
		runs = 20
	}
	seed, count, steps, gathered := uint64(crashtest.Seed(t)), 0, 0, uint64(0)
	duration, _ := time.ParseDuration(os.Getenv("PULK_INTERLEAVE")) // at least
	for begun, n := time.Now(), uint64(0); n < runs || time.Since(begun) < duration; n++ {
		x := interleaveGathering(t, seed+n)
		require.Empty(t, x.wrong, "seed %d", seed+n)
		count++
		steps += x.steps
		gathered += x.gathered
	}
	t.Logf("%d interleavings, %d steps, %d pages gathered", count, steps, gathered)
	crashtest.ReportCount(t, count, "interleavings")
	require.NotZero(t, gathered)
}

// TestGatheringFindMistakes: with a mistake planted, an interleaving that shows it is
// found. In debug builds, which have the switch.
func TestGatheringFindMistakes(t *testing.T) {
	if !invariant.Debug {
		t.Skip("needs a debug build")
	}
	testhooks.GatherStale.Set(true)
	defer testhooks.GatherStale.Set(false)
	for n := range uint64(300) {
		if x := interleaveGathering(t, n); len(x.wrong) > 0 {
			t.Logf("found after %d interleavings: %s", n+1, x.wrong[0])
			return
		}
	}
	t.Error("not found")
}
