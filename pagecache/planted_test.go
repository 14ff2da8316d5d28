package pagecache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// limbo has readers look up pages under a guard while writers free them and put
// others in their place, and returns what a reader saw of a page that was not the
// one it had looked up (P5), and after how many looks. The writer frees and
// allocates rounds times.
func limbo(seed uint64, rounds int) (looks int64, err error) {
	const pages, readers = 4, 3
	c, err := Open(tiny(vfs.NewMem(), stringPages{}))
	if err != nil {
		return 0, err
	}
	type entry struct {
		pid  PID
		name string
	}
	var registry [pages]atomic.Pointer[entry]
	var done atomic.Int64
	var found atomic.Pointer[error]
	fail := func(err error) { found.CompareAndSwap(nil, &err) }
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer over.Store(true)
		rng := rand.New(rand.NewPCG(seed, 1))
		for n := 0; n < rounds && found.Load() == nil; n++ {
			i := rng.IntN(pages)
			if e := registry[i].Swap(nil); e != nil {
				_, key, err := c.Get(e.pid)
				if err == nil {
					err = c.Free(e.pid, key)
				}
				if err != nil {
					fail(fmt.Errorf("free: %w", err))
					return
				}
			}
			if n%50 == 0 {
				_ = c.Sync()
			}
			name := fmt.Sprintf("%d-%d.", i, n)
			pid, _, err := c.Allocate([]byte(name))
			if err != nil {
				fail(fmt.Errorf("allocate: %w", err))
				return
			}
			registry[i].Store(&entry{pid, name})
		}
	})
	for r := range readers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(r)+10))
			for !over.Load() {
				g := c.Pin()
				e := registry[rng.IntN(pages)].Load()
				for look := 0; e != nil && look < 20; look++ {
					v, err := c.View(g, e.pid)
					if errors.Is(err, ErrGone) {
						break
					}
					if err == nil && v.Resident() && !strings.HasPrefix(string(v.Base()), e.name) {
						fail(fmt.Errorf("page %d is %q, not %q", e.pid, v.Base(), e.name))
					}
					done.Add(1)
					runtime.Gosched()
				}
				g.Unpin()
			}
		})
	}
	wg.Wait()
	if e := found.Load(); e != nil {
		err = *e
	}
	return done.Load(), errors.Join(err, c.Close())
}

// TestLimbo: under a guard the PID of a page that was looked up stands for that
// page, or for none (P5).
func TestLimbo(t *testing.T) {
	looks, err := limbo(uint64(crashtest.Seed(t)), 3000)
	t.Logf("%d looks", looks)
	require.NoError(t, err)
}

// TestPlantedBugs: the harnesses find what is wrong on purpose.
func TestPlantedBugs(t *testing.T) {
	crashtest.Planted(t, "reuse a segment early", &testhooks.ReuseSegmentEarly, func(seed int64) (crashtest.Result, error) {
		return crashtest.Power{Seed: seed, Points: 600, Steps: 100, Planted: true}.Run(crashLayer)
	})
	crashtest.Planted(t, "lose a freed PID's limbo", &testhooks.LoseLimbo, func(seed int64) (crashtest.Result, error) {
		looks, err := limbo(uint64(seed), 3000)
		return crashtest.Result{Looks: int(looks)}, err
	})
}
