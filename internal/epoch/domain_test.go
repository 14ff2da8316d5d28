package epoch

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pulkdb/db/internal/arena"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/stretchr/testify/require"
)

func TestReclaimWaitsForGuards(t *testing.T) {
	var got []uint64
	d := New(func(item uint64) { got = append(got, item) })

	reader := d.Pin()
	writer := d.Pin()
	d.Retire(writer, 7)
	writer.Unpin()
	for range 10 {
		d.TryAdvance()
	}
	require.Empty(t, got, "a reader pinned before is still there")
	require.Equal(t, 1, d.Pending())
	require.False(t, d.Flush())

	later := d.Pin()
	reader.Unpin()
	require.True(t, d.Flush(), "a guard pinned after Retire does not matter")
	later.Unpin()
	require.Equal(t, []uint64{7}, got)
	require.Zero(t, d.Pending())
}

func TestRetireReclaimsWithoutFlush(t *testing.T) {
	d := New(func(uint64) {})
	for i := range uint64(100 * retireInterval) {
		g := d.Pin()
		d.Retire(g, i)
		g.Unpin()
		require.LessOrEqual(t, d.Pending(), 4*retireInterval)
	}
	d.Close()
	require.Zero(t, d.Pending())
}

func TestReclaimMayRetire(t *testing.T) {
	var d *Domain
	reclaimed := 0
	d = New(func(item uint64) {
		if reclaimed++; item > 0 {
			g := d.Pin()
			d.Retire(g, item-1)
			g.Unpin()
		}
	})
	g := d.Pin()
	d.Retire(g, 100)
	g.Unpin()
	require.True(t, d.Flush())
	require.Equal(t, 101, reclaimed)
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	d := New(func(uint64) {})
	step := func() {
		for i := range uint64(10_000) {
			g := d.Pin()
			d.Retire(g, i)
			g.Unpin()
		}
	}
	step()
	require.Zero(t, testing.AllocsPerRun(10, step))
}

// A schedule runs random steps of several guards on one goroutine and checks E1
// and E2 against a model. It returns the first violation.
func schedule(grace uint64, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 1))
	type retired struct {
		before map[int]bool // guards that may see the item
		done   bool
	}
	var items []retired
	var violation error
	guards := map[int]Guard{}
	d := New(func(item uint64) {
		if items[item].done {
			violation = fmt.Errorf("item %d reclaimed twice", item)
		}
		items[item].done = true
		for id := range items[item].before {
			if _, pinned := guards[id]; pinned {
				violation = fmt.Errorf("item %d reclaimed under guard %d", item, id)
			}
		}
	})
	d.grace = grace
	for next := 0; next < 2000 && violation == nil; next++ {
		switch rng.IntN(5) {
		case 0, 1:
			if len(guards) < 4 {
				guards[next] = d.Pin()
			}
		case 2:
			for id, g := range guards {
				delete(guards, id)
				g.Unpin()
				break
			}
		case 3:
			for _, g := range guards {
				before := map[int]bool{}
				for id := range guards {
					before[id] = true
				}
				items = append(items, retired{before: before})
				d.Retire(g, uint64(len(items)-1))
				break
			}
		case 4:
			d.TryAdvance()
		}
		for id, g := range guards {
			if e := d.epoch.Load(); e-g.epoch > 1 {
				return fmt.Errorf("guard %d at %d in epoch %d", id, g.epoch, e)
			}
		}
	}
	for id, g := range guards {
		delete(guards, id)
		g.Unpin()
	}
	if violation == nil && grace == gracePeriods && !d.Flush() {
		return fmt.Errorf("%d items left without a guard", d.Pending())
	}
	return violation
}

func TestSchedules(t *testing.T) {
	for seed := range uint64(300) {
		require.NoError(t, schedule(gracePeriods, seed), "seed %d", seed)
	}
}

// TestOneStepIsTooEarly shows that the schedules would catch a domain which
// reclaims one epoch too early.
func TestOneStepIsTooEarly(t *testing.T) {
	caught := 0
	for seed := range uint64(20) {
		if schedule(gracePeriods-1, seed) != nil {
			caught++
		}
	}
	require.Equal(t, 20, caught)
}

// TestReadersNeverSeeFreedMemory has readers follow references that writers
// replace, retire and free. In debug builds freed memory is poisoned at once and
// a late look is a data race too.
func TestReadersNeverSeeFreedMemory(t *testing.T) {
	const objectBytes, slots = 96, 8
	a := arena.New(arena.Options{})
	defer a.Close()
	d := New(func(item uint64) {
		r := arena.Ref(item)
		clear(a.Bytes(r, 0, objectBytes))
		a.Free(r)
	})
	newObject := func(x uint64) arena.Ref {
		r := a.Alloc(objectBytes)
		for off := 0; off < objectBytes; off += 8 {
			b := a.Bytes(r, off, 8)
			for i := range b {
				b[i] = byte(x>>(8*i)) | 1
			}
		}
		return r
	}
	var table [slots]atomic.Uint64
	for i := range table {
		table[i].Store(uint64(newObject(uint64(i))))
	}
	writes := 60_000
	if invariant.Debug {
		writes = 3_000
		invariant.SetPausing(true)
		defer invariant.SetPausing(false)
	}
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	for w := range 3 {
		writers.Add(1)
		go func() {
			defer writers.Done()
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for range writes {
				g := d.Pin()
				old := table[rng.IntN(slots)].Swap(uint64(newObject(rng.Uint64())))
				d.Retire(g, old)
				g.Unpin()
			}
		}()
	}
	for r := range 3 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			rng := rand.New(rand.NewPCG(uint64(r), 6))
			for !stop.Load() {
				g := d.Pin()
				ref := arena.Ref(table[rng.IntN(slots)].Load())
				b := a.Bytes(ref, 0, objectBytes)
				for i := 8; i < objectBytes; i++ {
					if b[i]&1 == 0 || b[i] != b[8+i%8] {
						t.Errorf("byte %d of %#x changed under a guard", i, ref)
						stop.Store(true)
						break
					}
				}
				g.Unpin()
			}
		}()
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	for i := range table {
		g := d.Pin()
		d.Retire(g, table[i].Load())
		g.Unpin()
	}
	d.Close()
	require.Zero(t, a.Used(), "everything was reclaimed")
}

// TestManyRetire checks that each of many items retired at once comes back
// exactly once (E2), while guards come and go.
func TestManyRetire(t *testing.T) {
	const goroutines, perGoroutine = 6, 3000
	invariant.SetPausing(true)
	defer invariant.SetPausing(false)
	seen := make([]atomic.Int32, goroutines*perGoroutine)
	d := New(func(item uint64) { seen[item].Add(1) })
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range perGoroutine {
				guard := d.Pin()
				d.Retire(guard, uint64(g*perGoroutine+i))
				guard.Unpin()
			}
		}()
	}
	wg.Wait()
	d.Close()
	for i := range seen {
		require.EqualValues(t, 1, seen[i].Load())
	}
}

func TestRetireWithoutGuardPanics(t *testing.T) {
	if !invariant.Debug {
		t.Skip("only in debug builds")
	}
	d := New(func(uint64) {})
	g := d.Pin()
	g.Unpin()
	require.Panics(t, func() { d.Retire(g, 1) })
}

// TestRetireTwicePanics: at once, and with the name of who did it first.
func TestRetireTwicePanics(t *testing.T) {
	if !invariant.Debug {
		t.Skip("only in debug builds")
	}
	d := New(func(uint64) {})
	g := d.Pin()
	retireAnItem(d, g)
	message := func() (m string) {
		defer func() { m = fmt.Sprint(recover()) }()
		d.Retire(g, 16)
		return ""
	}()
	require.Contains(t, message, "retired twice")
	require.Contains(t, message, "retireAnItem")
	g.Unpin()
	require.True(t, d.Flush())
	g = d.Pin()
	d.Retire(g, 16) // it may have been used again since
	g.Unpin()
	d.Close()
}

//go:noinline
func retireAnItem(d *Domain, g Guard) { d.Retire(g, 16) }

// TestFailureToReclaimNamesTheOrigin: whoever steps is not to blame.
func TestFailureToReclaimNamesTheOrigin(t *testing.T) {
	if !invariant.Debug {
		t.Skip("only in debug builds")
	}
	d := New(func(uint64) { panic("cannot") })
	g := d.Pin()
	retireAnItem(d, g)
	g.Unpin()
	message := func() (m string) {
		defer func() { m = fmt.Sprint(recover()) }()
		d.Flush()
		return ""
	}()
	require.Contains(t, message, "cannot")
	require.Contains(t, message, "retireAnItem")
}

func BenchmarkPinUnpin(b *testing.B) {
	for _, goroutines := range []int{1, 2} {
		b.Run(fmt.Sprintf("g%d", goroutines), func(b *testing.B) {
			d := New(func(uint64) {})
			inParallel(b, goroutines, func() {
				d.Pin().Unpin()
			})
		})
	}
}

func BenchmarkRetire(b *testing.B) {
	for _, goroutines := range []int{1, 2} {
		b.Run(fmt.Sprintf("g%d", goroutines), func(b *testing.B) {
			d := New(func(uint64) {})
			inParallel(b, goroutines, func() {
				g := d.Pin()
				d.Retire(g, 1)
				g.Unpin()
			})
		})
	}
}

func inParallel(b *testing.B, goroutines int, f func()) {
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range goroutines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range b.N {
				f()
			}
		}()
	}
	wg.Wait()
}
