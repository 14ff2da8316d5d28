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
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/vfs"
)

// TestInterleavings holds operations up at random between reading a head and
// publishing, while pages are changed, alone and together, in groups too,
// allocated, freed, evicted, cleaned and checkpointed. Nothing may be lost or come
// twice (P1), every account must fit, and a crash keeps each Update whole.
func TestInterleavings(t *testing.T) {
	seeds := uint64(5)
	if invariant.Debug {
		seeds = 2
	}
	for seed := range seeds {
		seed += 1000 * uint64(time.Now().UnixNano()%1000)
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { heldUp(t, seed) })
	}
}

func heldUp(t *testing.T, seed uint64) {
	yieldAtRandom(t, seed)
	const pages, workers, rounds = 6, 5, 150
	fs := vfs.NewMem()
	o := tiny(fs, counterPages{})
	o.MergeDeltas = 2
	c := mustOpen(t, o)
	var pids [pages]PID
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate(nil)
		require.NoError(t, err)
	}
	require.NoError(t, c.Sync())
	var want [pages]atomic.Int64
	stop := make(chan struct{})
	var side, wg sync.WaitGroup
	side.Go(func() { disturb(t, c, stop) })
	side.Go(func() { cleanAlways(c, stop) })
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for range rounds {
				i, j := rng.IntN(pages/2), pages/2+rng.IntN(pages/2)
				switch rng.IntN(5) {
				case 0:
					move(t, c, pids[i], pids[j], w, 1)
					want[i].Add(1)
					want[j].Add(-1)
				case 1:
					moveDecided(t, c, pids[i], pids[j], w)
					want[i].Add(1)
					want[j].Add(-1)
				case 2:
					churn(t, c, rng)
				default:
					k := rng.IntN(pages)
					addOnce(t, c, pids[k], w, 1)
					want[k].Add(1)
				}
			}
		})
	}
	wg.Wait()
	crashed := fs.CrashClone(int64(seed + 1))
	close(stop)
	side.Wait()
	sums := func(c *Cache) (sums [pages]int64, total int64) {
		for i, pid := range pids {
			for w := range workers {
				sums[i] += mustCount(t, c, pid, w)
			}
			total += sums[i]
		}
		return sums, total
	}
	got, _ := sums(c)
	for i := range pids {
		require.Equal(t, want[i].Load(), got[i], "page %d", pids[i])
	}
	accountsFit(t, c)
	require.NoError(t, c.Close())
	c = mustOpen(t, o)
	again, _ := sums(c)
	require.Equal(t, got, again)
	accountsFit(t, c)
	require.NoError(t, c.Close())
	o.FS = crashed
	c = mustOpen(t, o)
	_, _ = sums(c)
	accountsFit(t, c)
	require.NoError(t, c.Close())
}

// yieldAtRandom holds operations up until the test ends.
func yieldAtRandom(t *testing.T, seed uint64) {
	var calls atomic.Uint64
	hookYield(t, func(p yieldPoint) {
		switch n := mix(seed ^ calls.Add(1)<<8 ^ uint64(p)); {
		case n%16 == 0:
			time.Sleep(time.Duration(n>>8%200) * time.Microsecond)
		case n%2 == 0:
			runtime.Gosched()
		}
	})
}

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// moveDecided is move with a first page that is not acquired: its
// compare-and-swap decides.
func moveDecided(t *testing.T, c *Cache, first, second PID, counter int) {
	for {
		u := c.Begin()
		a, err := c.View(u.guard, first)
		if err == nil {
			u.Append(a, addTo(counter, 1), 0)
			var b View
			if b, err = u.Acquire(second); err == nil {
				u.Append(b, addTo(counter, -1), 0)
			}
		}
		if err != nil {
			u.Discard()
			t.Errorf("move: %v", err)
			return
		}
		r, err := u.Commit()
		if err != nil {
			t.Errorf("move: %v", err)
			return
		}
		if r.Outcome == Done {
			return
		}
	}
}

// churn allocates a few pages in one Update, more than a record holds now and
// then, and frees them in others; sometimes it thinks better of it.
func churn(t *testing.T, c *Cache, rng *rand.Rand) {
	u := c.Begin()
	var mine []PID
	for range 1 + rng.IntN(5) {
		pid, err := u.Allocate([]byte(strings.Repeat("p", 8*rng.IntN(90))))
		if err != nil {
			u.Discard()
			t.Errorf("allocate: %v", err)
			return
		}
		mine = append(mine, pid)
	}
	if rng.IntN(4) == 0 {
		u.Discard()
		return
	}
	if _, err := u.Commit(); err != nil {
		t.Errorf("allocate: %v", err)
		return
	}
	for _, pid := range mine {
		_, key, err := c.Get(pid)
		if err == nil {
			err = c.Free(pid, key)
		}
		if err != nil {
			t.Errorf("free: %v", err)
		}
	}
	if _, _, err := c.Get(mine[0]); err != nil && !errors.Is(err, ErrGone) {
		t.Errorf("get: %v", err)
	}
}

// cleanAlways moves everything out of one segment after the other.
func cleanAlways(c *Cache, stop chan struct{}) {
	for {
		for _, s := range c.log.Segments() {
			select {
			case <-stop:
				return
			default:
			}
			if s.End == 0 || s.Live == 0 {
				continue
			}
			c.clean.mu.Lock()
			_ = c.cleanSegment(s.Base)
			c.clean.mu.Unlock()
			c.epochs.TryAdvance()
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// TestCrashInterleaved is TestCrash with groups of records, the cleaner always at
// work, and operations held up at random.
func TestCrashInterleaved(t *testing.T) {
	const workers, crashes = 4, 12
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldAtRandom(t, seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	fs := vfs.NewMem()
	o := tiny(fs, counterPages{})
	o.MergeDeltas = 2
	c := mustOpen(t, o)
	var pids [2 * workers]PID
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate(nil)
		require.NoError(t, err)
	}
	require.NoError(t, c.Sync())
	var issued, acked [workers]atomic.Int64
	for crash := range crashes {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range workers {
			wrng := rand.New(rand.NewPCG(rng.Uint64(), 1))
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					issued[w].Add(1)
					lsn := addToBothAndMore(t, c, wrng, pids[w], pids[workers+w], w)
					if lsn == 0 {
						return
					}
					if wrng.IntN(3) == 0 && c.WaitDurable(lsn) == nil {
						acked[w].Store(issued[w].Load())
					}
				}
			})
		}
		wg.Go(func() { disturb(t, c, stop) })
		wg.Go(func() { cleanAlways(c, stop) })
		time.Sleep(time.Duration(2+rng.IntN(12)) * time.Millisecond)
		var durable [workers]int64
		for w := range durable {
			durable[w] = acked[w].Load()
		}
		o.FS = fs.CrashClone(int64(rng.Uint64() >> 1))
		close(stop)
		wg.Wait()
		require.NoError(t, c.Close())
		fs = o.FS.(*vfs.Mem)
		c = mustOpen(t, o)
		for w := range workers {
			a, b := mustCount(t, c, pids[w], w), mustCount(t, c, pids[workers+w], w)
			at := fmt.Sprintf("crash %d worker %d", crash, w)
			require.Equal(t, a, b, at)
			require.GreaterOrEqual(t, a, durable[w], at)
			require.LessOrEqual(t, a, issued[w].Load(), at)
			issued[w].Store(a)
			acked[w].Store(a)
		}
		accountsFit(t, c)
	}
	require.NoError(t, c.Close())
}

// addToBothAndMore adds 1 to a counter of two pages at once, and allocates so many
// pages with it, now and then, that it takes several records. It returns 0 if that
// failed.
func addToBothAndMore(t *testing.T, c *Cache, rng *rand.Rand, first, second PID, counter int) LSN {
	if err := c.Throttle(); err != nil {
		t.Errorf("throttle: %v", err)
		return 0
	}
	u := c.Begin()
	change := func(pid PID) error {
		v, err := u.Acquire(pid)
		if err == nil {
			u.Append(v, addTo(counter, 1), 0)
		}
		return err
	}
	err := change(first)
	var more []PID
	for range rng.IntN(5) {
		pid, aerr := u.Allocate(make([]byte, 800))
		err = errors.Join(err, aerr)
		more = append(more, pid)
	}
	if err = errors.Join(err, change(second)); err != nil {
		u.Discard()
		t.Errorf("update: %v", err)
		return 0
	}
	r, err := u.Commit()
	for _, pid := range more {
		_, key, gerr := c.Get(pid)
		err = errors.Join(err, gerr)
		if gerr == nil {
			err = errors.Join(err, c.Free(pid, key))
		}
	}
	g := c.Pin()
	err = errors.Join(err, c.Maintain(g, first), c.Maintain(g, second))
	g.Unpin()
	if err != nil {
		t.Errorf("update: %v", err)
		return 0
	}
	return r.LSN
}

// versionPages keeps every delta with its stamp, as "stamp:text;".
type versionPages struct{}

func (versionPages) Merge(dst []byte, m *Merging) ([]byte, error) {
	dst = append(dst, m.Fragments[0].Data...)
	for _, f := range m.Fragments[1:] {
		dst = fmt.Appendf(dst, "%d:%s;", f.Stamp, f.Data)
	}
	return dst, nil
}

func (versionPages) Recover([]byte) (Recovery, bool) { return Recovery{}, false }

// seenAt is what a moment sees of a page. It reports an error if stamps do not
// grow along the page (P8).
func seenAt(page []byte, moment uint64) (seen string, err error) {
	last := uint64(0)
	for entry := range strings.SplitSeq(string(page), ";") {
		stamp, text := uint64(0), ""
		if entry == "" {
			continue
		}
		if _, err := fmt.Sscanf(entry, "%d:%s", &stamp, &text); err != nil {
			return "", err
		}
		if stamp < last && stamp != 0 {
			return "", fmt.Errorf("stamp %d follows %d", stamp, last)
		}
		last = max(last, stamp)
		if stamp <= moment {
			seen += text
		}
	}
	return seen, nil
}

// TestMomentsAcrossEviction: what a moment sees of a page stays the same while the
// page is changed, alone and in groups, folded, evicted, loaded and moved (P8).
func TestMomentsAcrossEviction(t *testing.T) {
	yieldAtRandom(t, 11)
	c := mustOpen(t, tiny(vfs.NewMem(), versionPages{}))
	var pids [3]PID
	for i := range pids {
		pids[i], _ = mustAllocate(t, c, "")
	}
	stop := make(chan struct{})
	var side, wg sync.WaitGroup
	side.Go(func() { disturb(t, c, stop) })
	side.Go(func() { cleanAlways(c, stop) })
	for range 2 {
		side.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				watchMoment(t, c, pids[:])
			}
		})
	}
	for w := range 3 {
		rng := rand.New(rand.NewPCG(uint64(w), 5))
		wg.Go(func() {
			for range 60 {
				if rng.IntN(2) == 0 {
					appendText(t, c, rng, pids[:])
					continue
				}
				pid := pids[rng.IntN(len(pids))]
				for done := false; !done && !t.Failed(); {
					g := c.Pin()
					v, err := c.View(g, pid)
					if err == nil {
						var r Result
						r, err = c.Append(g, v, []byte("a"), 0)
						done = r.Outcome == Done
					}
					g.Unpin()
					if err != nil {
						t.Errorf("append: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	side.Wait()
	accountsFit(t, c)
	require.NoError(t, c.Close())
}

func watchMoment(t *testing.T, c *Cache, pids []PID) {
	m := c.OpenMoment()
	defer m.Close()
	var first [3]string
	for round := range 4 {
		for i, pid := range pids {
			page, _, err := c.Get(pid)
			var seen string
			if err == nil {
				seen, err = seenAt(page, m.Stamp())
			}
			if err == nil && round > 0 && seen != first[i] {
				err = fmt.Errorf("moment %d saw %q and then %q in %q", m.Stamp(), first[i], seen, page)
			}
			if err != nil {
				t.Errorf("page %d: %v", pid, err)
				return
			}
			first[i] = seen
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// appendText appends to all pages in one Update, a group now and then.
func appendText(t *testing.T, c *Cache, rng *rand.Rand, pids []PID) {
	u := c.Begin()
	var more []PID
	var err error
	for _, pid := range pids {
		v, aerr := u.Acquire(pid)
		if err = errors.Join(err, aerr); err != nil {
			break
		}
		u.Append(v, []byte("b"), 0)
		for range rng.IntN(3) {
			fresh, aerr := u.Allocate(make([]byte, 800))
			err = errors.Join(err, aerr)
			more = append(more, fresh)
		}
	}
	if err != nil {
		u.Discard()
		t.Errorf("update: %v", err)
		return
	}
	if _, err := u.Commit(); err != nil {
		t.Errorf("update: %v", err)
	}
	for _, pid := range more {
		if _, key, err := c.Get(pid); err == nil {
			_ = c.Free(pid, key)
		}
	}
}
