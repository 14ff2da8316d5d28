package pagecache

import (
	"math"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
)

// budgeted are options of a store that is larger than its cache.
func budgeted(cacheSize int64) Options {
	return Options{
		Dir: "store", FS: vfs.NewMem(), Materializer: stringPages{},
		CacheSize: cacheSize, SegmentBytes: 1 << 20, BufferBytes: 16 << 10, SnapshotBytes: 1 << 40,
	}
}

// fill allocates n pages of the given size.
func fill(t testing.TB, c *Cache, n, bytes int) []PID {
	t.Helper()
	pids := make([]PID, n)
	for i := range pids {
		var err error
		pids[i], _, err = c.Allocate([]byte(strings.Repeat("x", bytes)))
		require.NoError(t, err)
	}
	return pids
}

// read reads a page as a point read does, or as a scan does, and reports whether it
// was in memory.
func (c *Cache) read(t testing.TB, pid PID, scan bool) (hit bool) {
	view, load := c.View, c.Load
	if scan {
		view, load = c.Peek, c.LoadToScan
	}
	for hit = true; ; hit = false {
		g := c.Pin()
		v, err := view(g, pid)
		resident := err == nil && v.Resident()
		g.Unpin()
		require.NoError(t, err)
		if resident {
			return hit
		}
		require.NoError(t, load(pid))
	}
}

// TestHeldMemoryFollows: when what is cached changes its size, again and again, page
// memory that was held for the old sizes goes to the new ones, and what the process
// takes stays near CacheSize. (Chunks of 32 MiB apart, which are mapped as a whole.)
func TestHeldMemoryFollows(t *testing.T) {
	const cacheSize = 4 << 20
	c := mustOpen(t, budgeted(cacheSize))
	defer func() { require.NoError(t, c.Close()) }()
	rnd := rand.New(rand.NewPCG(1, 2))
	var pids []PID
	most := int64(0)
	for _, bytes := range []int{700, 5000, 1500, 300, 9000, 2500, 600} {
		pids = append(pids, fill(t, c, 2*cacheSize/bytes, bytes)...)
		for range 2000 {
			c.read(t, pids[rnd.IntN(len(pids))], false)
		}
		m := c.Metrics()
		most = max(most, m.HeldBytes)
		t.Logf("pages of %d bytes: %d KiB used, %d held", bytes, m.MemoryBytes>>10, m.HeldBytes>>10)
	}
	require.Less(t, most, int64(cacheSize)*2) // it was 4 times before sparse spans counted
}

// TestMemoryIsAccounted: what Metrics say of the parts of memory is what they are,
// and nothing is left of what was for a while.
func TestMemoryIsAccounted(t *testing.T) {
	o := budgeted(64 << 20)
	o.MergeDeltas = 4
	c := mustOpen(t, o)
	const pages, bytes = 500, 1000
	pids := fill(t, c, pages, bytes)
	m := c.Metrics().Memory
	require.EqualValues(t, tableChunkSlots*8, m.Table)
	require.InDelta(t, pages*(bytes+48), m.Bases, pages*bytes/8)
	require.Zero(t, m.Deltas)
	require.Zero(t, m.Positions)
	require.NotZero(t, m.Buffers)
	for _, pid := range pids {
		pinned(c, func(g epoch.Guard) {
			v, err := c.View(g, pid)
			require.NoError(t, err)
			_, err = c.Append(g, v, []byte("y"), 0)
			require.NoError(t, err)
		})
	}
	require.EqualValues(t, pages*blockBytesMin, c.Metrics().Memory.Deltas)
	c.sweepUntil(0)
	c.waitForGuards()
	m = c.Metrics().Memory
	require.Zero(t, m.Bases)
	require.Zero(t, m.Deltas)
	require.Zero(t, m.Retired)
	require.NotZero(t, m.Positions)
	require.Equal(t, m.sum()-m.Buffers, c.arena.Used())
	for i, pid := range pids {
		if i%2 == 0 {
			require.Len(t, mustGet(t, c, pid), bytes+1)
			continue
		}
		key, err := c.keyOf(pid)
		require.NoError(t, err)
		require.NoError(t, c.Free(pid, key))
	}
	c.waitForGuards()
	m = c.Metrics().Memory
	require.InDelta(t, pages/2*(bytes+48), m.Bases, pages*bytes/16)
	require.EqualValues(t, pages/2*32, m.Positions, "the nodes of the free pages")
	require.Equal(t, m.sum()-m.Buffers, c.arena.Used())
	require.NoError(t, c.Close())
}

// TestEvictedPageCostsTensOfBytes: a page that is not in memory costs its slot, the
// fixed part of its node and 12 bytes for each place in the log.
func TestEvictedPageCostsTensOfBytes(t *testing.T) {
	c := mustOpen(t, budgeted(256<<20))
	const pages = 10 * tableChunkSlots
	pids := fill(t, c, pages-1, 300)
	perPage := func() float64 {
		c.sweepUntil(0)
		c.waitForGuards()
		require.Zero(t, c.Metrics().Memory.Bases)
		return float64(c.arena.Used()) / pages
	}
	one := perPage()
	t.Logf("%.1f bytes for an evicted page in one place", one)
	require.LessOrEqual(t, one, 56.0)
	for _, pid := range pids {
		pinned(c, func(g epoch.Guard) {
			v, err := c.View(g, pid)
			require.NoError(t, err)
			_, err = c.Append(g, v, []byte("y"), 0)
			require.NoError(t, err)
		})
	}
	two := perPage()
	t.Logf("%.1f bytes in two places", two)
	require.LessOrEqual(t, two, 72.0)
	require.NoError(t, c.Close())
}

// TestBudgetIsKept: caches of some sizes stay within a tenth of them under writers
// and readers, but for the fixed part of the buffers.
func TestBudgetIsKept(t *testing.T) {
	for _, size := range []int64{512 << 10, 1 << 20, 8 << 20} {
		c := mustOpen(t, budgeted(size))
		pids := fill(t, c, int(8*size/2000), 1900)
		var stop atomic.Bool
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(w)))
				for !stop.Load() {
					pid := pids[random.IntN(len(pids))]
					if w == 0 {
						c.read(t, pid, false)
						continue
					}
					key, err := c.keyOf(pid)
					if err == nil {
						_, err = c.Merge(pid, key, []byte("some bytes that are added"))
					}
					if err != nil && !isChanged(err) {
						t.Error(err)
						return
					}
				}
			})
		}
		over, overKept, samples := 0, 0, 0
		largest := MemoryMetrics{}
		for begin := time.Now(); time.Since(begin) < 500*time.Millisecond; time.Sleep(time.Millisecond) {
			m := c.memoryMetrics()
			sum := m.sum() - m.Buffers + min(m.Buffers, c.bufferShare())
			if sum > size*11/10 {
				over++
			}
			if sum-m.Retired > size*11/10 {
				overKept++
			}
			samples++
			if m.sum() > largest.sum() {
				largest = m
			}
		}
		stop.Store(true)
		wg.Wait()
		t.Logf("%d KiB: at most %d KiB, %+v", size>>10, largest.sum()>>10, largest)
		// A goroutine that holds a guard may not get to run for a while, longer on a machine
		// with other work; then what is retired stays.
		require.LessOrEqual(t, overKept, samples/20, "%d KiB: above 110%% without what is retired in %d of %d samples, at most %+v", size>>10, overKept, samples, largest)
		require.LessOrEqual(t, over, samples/4, "%d KiB: above 110%% in %d of %d samples, at most %+v", size>>10, over, samples, largest)
		require.NoError(t, c.Close())
	}
}

// TestWalkLeavesTheHotPages: in a cache of a few MiB a walk over all pages must not
// throw out those that are read in between.
func TestWalkLeavesTheHotPages(t *testing.T) {
	c := mustOpen(t, budgeted(2<<20))
	pids := fill(t, c, 3000, 3900)
	hot := pids[:100]
	readHot := func() (missed int) {
		for _, pid := range hot {
			if !c.read(t, pid, false) {
				missed++
			}
		}
		return missed
	}
	for range 4 {
		readHot()
	}
	missed, reads := 0, 0
	for range 2 {
		for i, pid := range pids {
			c.read(t, pid, true)
			if i%100 == 0 {
				missed += readHot()
				reads += len(hot)
			}
		}
	}
	t.Logf("%d of %d reads of hot pages missed beside a walk over %d pages", missed, reads, 2*len(pids))
	require.Less(t, missed, reads/20)
	require.NoError(t, c.Close())
}

// TestScanCostsNoHits: the hit rate of skewed reads is the same beside a scan of all
// pages, which reads as many.
func TestScanCostsNoHits(t *testing.T) {
	c := mustOpen(t, budgeted(2<<20))
	pids := fill(t, c, 8000, 1900) // eight times the cache
	rand.New(rand.NewPCG(3, 3)).Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })
	zipf := newZipf(len(pids), 0.99)
	random := rand.New(rand.NewPCG(1, 2))
	next := 0
	rate := func(scan bool) float64 {
		const reads = 40_000
		hits := 0
		for range reads {
			if c.read(t, pids[zipf.next(random)], false) {
				hits++
			}
			if scan {
				c.read(t, pids[next%len(pids)], true)
				next++
			}
		}
		return float64(hits) / reads
	}
	rate(false)
	alone := rate(false)
	rate(true)
	beside := rate(true)
	t.Logf("hit rate %.3f alone, %.3f beside a scan", alone, beside)
	require.Greater(t, beside, alone-0.05)
	require.NoError(t, c.Close())
}

// A zipfian draws i from 0 to n-1 with a probability proportional to 1/(i+1)^theta.
type zipfian struct{ sums []float64 }

func newZipf(n int, theta float64) zipfian {
	z := zipfian{make([]float64, n)}
	sum := 0.0
	for i := range z.sums {
		sum += math.Pow(float64(i+1), -theta)
		z.sums[i] = sum
	}
	return z
}

func (z zipfian) next(r *rand.Rand) int {
	x := r.Float64() * z.sums[len(z.sums)-1]
	return min(sort.SearchFloat64s(z.sums, x), len(z.sums)-1)
}

func isChanged(err error) bool {
	_, ok := err.(*ChangedError)
	return ok
}

// TestMarks: what views, loads and the hand make of a mark.
func TestMarks(t *testing.T) {
	var m mark
	require.False(t, m.pass(false), "a page that nobody viewed goes")
	m.touch()
	require.True(t, m.isTouched())
	require.True(t, m.pass(false))
	require.True(t, m.pass(false), "a round later, because it was touched in the last")
	require.False(t, m.pass(false))

	m.setLoaded(true)
	require.False(t, m.isTouched())
	m.touch() // for whom it was loaded
	require.False(t, m.isTouched())
	require.False(t, m.release(), "a page that is read once goes")

	m.setLoaded(true)
	m.touch()
	m.touch()
	require.True(t, m.release())
	require.True(t, m.pass(false))
	require.False(t, m.pass(false))

	m.setLoaded(true)
	require.True(t, m.pass(false), "the hand spares it")
	require.False(t, m.pass(false), "once")

	for range 10 {
		m.touch()
		require.True(t, m.pass(false))
	}
	for range markLevelMax {
		require.True(t, m.pass(false))
	}
	require.False(t, m.pass(false))

	m.clear()
	m.setGhost()
	require.True(t, m.isGhost())
	m.forgetGhost()
	require.False(t, m.isGhost())

	for range 10 {
		m.touch()
		require.True(t, m.pass(true))
		require.False(t, m.pass(true), "with once, rounds do not add up")
	}
}
