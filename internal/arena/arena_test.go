package arena

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/stretchr/testify/require"
)

func TestClassesCoverEverySize(t *testing.T) {
	for n := range maxClassBytes + 1 {
		c := classOf(n)
		size := int(classes[c].size)
		require.GreaterOrEqual(t, size, n)
		require.Zero(t, size%16)
		if c > 0 {
			require.Less(t, int(classes[c-1].size), n, "class of %d is not the smallest", n)
		}
		if n > 128 {
			require.LessOrEqual(t, float64(size)/float64(n), 1.125)
		}
	}
	require.Equal(t, numClasses-1, classOf(maxClassBytes))
}

func TestClassSpans(t *testing.T) {
	for _, k := range classes {
		require.GreaterOrEqual(t, k.objects, uint32(minSpanObjects))
		require.LessOrEqual(t, k.objects, uint32(maxSpanObjects))
		require.LessOrEqual(t, k.objects*k.size, k.pages*pageBytes)
		used := float64(k.objects*k.size) / float64(k.pages*pageBytes)
		require.Greater(t, used, 0.93, "size %d", k.size)
		for i := range uint64(k.objects) {
			require.Equal(t, i, i*uint64(k.size)*k.inverse>>40)
		}
		require.Equal(t, k.objects, k.objectsIn(k.pages))
		for objects := k.objects; objects > 0; objects /= 2 {
			n := k.objectsIn(k.pagesFor(objects))
			require.GreaterOrEqual(t, n, objects)
			require.Equal(t, n, uint32(bits.OnesCount64(k.fullWord(k.pagesFor(objects)))))
		}
	}
}

func TestAllocSizes(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	var refs []Ref
	var used int64
	for _, n := range []int{0, 1, 31, 32, 33, 128, 129, 4096, 6000, 65536, 65537,
		100_000, chunkBytes/2 - 1, chunkBytes / 2, chunkBytes, chunkBytes + 1, 3*chunkBytes + 5} {
		r := a.Alloc(n)
		require.NotZero(t, r)
		require.Zero(t, r&15)
		require.Less(t, r, Ref(1)<<47)
		require.GreaterOrEqual(t, a.Size(r), n)
		b := a.Bytes(r, 0, a.Size(r))
		b[0], b[len(b)-1] = byte(n), byte(n)
		used += int64(a.Size(r))
		require.Equal(t, used, a.Used())
		refs = append(refs, r)
	}
	require.GreaterOrEqual(t, a.Held(), a.Used())
	require.GreaterOrEqual(t, a.Committed(), a.Held())
	for _, r := range refs {
		a.Free(r)
	}
	require.Zero(t, a.Used())
	a.Trim()
	require.Zero(t, a.Held())
	require.Zero(t, a.Committed())
	require.NotZero(t, a.Alloc(1), "works after Trim gave everything back")
}

func TestMaxBytes(t *testing.T) {
	a := New(Options{MaxBytes: 2 * chunkBytes})
	defer a.Close()
	var refs []Ref
	for {
		r := a.Alloc(32 << 10)
		if r == 0 {
			break
		}
		refs = append(refs, r)
	}
	require.Greater(t, a.Used(), int64(chunkBytes))
	require.Zero(t, a.Alloc(3*chunkBytes))
	for _, r := range refs {
		a.Free(r)
	}
	require.NotZero(t, a.Alloc(100), "pages of one class serve another without Trim")
}

// Runs of free pages that are too short for a span of a class served no object of it:
// memory was asked of the system while it lay there.
func TestShortRunsAreUsed(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	const small, large = 16 << 10, 40 << 10
	k, l := &classes[classOf(small)], &classes[classOf(large)]
	require.Less(t, k.pages, l.pages)
	require.GreaterOrEqual(t, k.pages, l.pagesFor(1))
	spans := map[spanID][]Ref{}
	for range 4 * chunkBytes / small {
		r := a.Alloc(small)
		_, id, _ := a.find(r)
		spans[id] = append(spans[id], r)
	}
	before := a.Committed()
	emptied := 0
	for id, refs := range spans { // every second span, so that none are neighbours
		if id/spanID(k.pages)%2 == 0 && len(refs) == int(k.objects) {
			emptied++
			for _, r := range refs {
				a.Free(r)
			}
		}
	}
	a.Scavenge()
	require.Greater(t, emptied, 16)
	var refs []Ref
	for range emptied {
		r := a.Alloc(large)
		require.NotZero(t, r)
		b := a.Bytes(r, 0, large)
		b[0], b[large-1] = 1, 1
		refs = append(refs, r)
	}
	require.Equal(t, before, a.Committed())
	require.LessOrEqual(t, a.Held(), before)
	for _, r := range refs {
		a.Free(r)
	}
	for id, refs := range spans {
		if id/spanID(k.pages)%2 != 0 || len(refs) != int(k.objects) {
			for _, r := range refs {
				a.Free(r)
			}
		}
	}
	require.Zero(t, a.Used())
	a.Trim()
	require.Zero(t, a.Committed())
}

// What ReleaseFree gives back is counted once, is not what objects live in, and can be
// used again.
func TestReleaseFree(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	random := rand.New(rand.NewPCG(1, 2))
	live := map[Ref][]byte{}
	check := func() {
		require.LessOrEqual(t, a.Held(), a.Resident())
		require.LessOrEqual(t, a.Resident(), a.Committed())
		for r, want := range live {
			require.Equal(t, want, a.Bytes(r, 0, len(want)))
		}
	}
	require.Zero(t, a.Resident())
	for range 6 {
		for range 200 {
			n := 1 + random.IntN(maxClassBytes*3/2)
			r := a.Alloc(n)
			b := a.Bytes(r, 0, min(n, 64))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			live[r] = append([]byte{}, b...)
		}
		for r := range live {
			if random.IntN(3) > 0 {
				a.Free(r)
				delete(live, r)
			}
		}
		check()
		a.Scavenge()
		before := a.Resident()
		a.ReleaseFree(before) // nothing is to be done
		require.Equal(t, before, a.Resident())
		a.ReleaseFree(0)
		check()
		if runtime.GOOS == "linux" && chunkBytes > 1<<20 { // not the heap's
			require.Less(t, a.Resident(), before)
			require.Less(t, a.Resident()-a.Held(), before/16, "only what is less than a page of the system")
		}
		again := a.Resident()
		a.ReleaseFree(0)
		require.Equal(t, again, a.Resident(), "given back twice")
	}
	for r := range live {
		a.Free(r)
	}
	a.Trim()
	require.Zero(t, a.Committed())
	require.Zero(t, a.Resident())
}

func TestIdleStripesDoNotKeepMemory(t *testing.T) {
	a := New(Options{MaxBytes: chunkBytes})
	defer a.Close()
	for n := 16; n <= maxClassBytes; n += 16 { // one span of each class, or no memory
		if r := a.Alloc(n); r != 0 {
			a.Free(r)
		}
	}
	require.NotZero(t, a.Alloc(chunkBytes/2), "the pages of all spans are free")
}

func TestFreeTwicePanics(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	for _, n := range []int{100, 5000, 1 << 17} {
		r := a.Alloc(n)
		freeAnObject(a, r)
		message := func() (m string) {
			defer func() { m = fmt.Sprint(recover()) }()
			a.Free(r)
			return ""
		}()
		require.Contains(t, message, "freed twice")
		if invariant.Debug {
			require.Contains(t, message, "freeAnObject", "who freed it first")
		}
	}
}

//go:noinline
func freeAnObject(a *Arena, r Ref) { a.Free(r) }

// TestKinds: what is used is known by kind, and an object can change its kind.
func TestKinds(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	small, large := a.AllocAs(100, 1), a.AllocAs(1<<17, 2)
	require.EqualValues(t, a.Size(small), a.UsedAs(1))
	require.EqualValues(t, a.Size(large), a.UsedAs(2))
	require.Equal(t, a.Size(small), a.SetKind(small, 1, 3))
	require.Zero(t, a.UsedAs(1))
	others, those := a.UsedBut(3)
	require.EqualValues(t, a.Size(large), others)
	require.EqualValues(t, a.Size(small), those)
	a.FreeAs(small, 3)
	a.FreeAs(large, 2)
	for k := range Kind(Kinds) {
		require.Zero(t, a.UsedAs(k))
	}
	require.Zero(t, a.Used())
}

func TestWriteAfterFreeIsNoticed(t *testing.T) {
	if !invariant.Debug {
		t.Skip("only in debug builds")
	}
	a := New(Options{})
	defer a.Close()
	var r Ref
	for range 10 { // the others keep the span
		r = a.Alloc(100)
	}
	a.Free(r)
	a.Bytes(r, 50, 1)[0] = 1
	a.Trim() // whichever stripe is asked next, it gets the same span
	require.Panics(t, func() {
		for range maxSpanObjects {
			a.Alloc(100)
		}
	})
}

func TestRangeOutsideObjectIsNoticed(t *testing.T) {
	if !invariant.Debug {
		t.Skip("only in debug builds")
	}
	a := New(Options{})
	defer a.Close()
	r := a.Alloc(100)
	require.Panics(t, func() { a.Bytes(r, 100, a.Size(r)) })
	require.Panics(t, func() { a.Word(r, a.Size(r)) })
	require.Panics(t, func() { a.Word32(r, 2) })
}

// TestRunsOfPages drives the page allocator of one chunk against a plain array.
func TestRunsOfPages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	c := new(chunk)
	c.setAllFree()
	used := make([]bool, pagesPerChunk)
	type run struct{ first, n int }
	var runs []run
	for range 20_000 {
		if n := 1 + rng.IntN(pagesPerChunk/8); rng.IntN(2) == 0 {
			first := c.takeRun(n)
			want, length := -1, 0
			for i := range used {
				if length++; used[i] {
					length = 0
				}
				if length == n {
					want = i - n + 1
					break
				}
			}
			require.Equal(t, want, first)
			if first >= 0 {
				runs = append(runs, run{first, n})
				for i := range n {
					used[first+i] = true
				}
			}
		} else if len(runs) > 0 {
			i := rng.IntN(len(runs))
			r := runs[i]
			runs[i] = runs[len(runs)-1]
			runs = runs[:len(runs)-1]
			c.giveRun(r.first, r.n)
			for i := range r.n {
				used[r.first+i] = false
			}
		}
	}
}

// An oracle knows which 16-byte units of memory belong to a live object (A1).
type oracle struct {
	units [1 << 24]atomic.Uint32 // by Ref/16; enough for 256 MiB of addresses
}

func (o *oracle) claim(t *testing.T, r Ref, n int, who uint32) {
	for u := r / 16; u < (r+Ref(n))/16; u++ {
		if !o.units[u].CompareAndSwap(0, who) {
			t.Errorf("%#x: %d bytes overlap an object of %d", r, n, o.units[u].Load())
			return
		}
	}
}

func (o *oracle) drop(r Ref, n int) {
	for u := r / 16; u < (r+Ref(n))/16; u++ {
		o.units[u].Store(0)
	}
}

// TestObjectsNeverOverlap runs many goroutines that allocate, fill, check, hand
// over and free objects of changing classes, so that spans are released and
// reused all the time (A1, A2, A4).
func TestObjectsNeverOverlap(t *testing.T) {
	if chunkBytes > 1<<20 && testing.Short() {
		t.Skip("needs small chunks to be quick")
	}
	a := New(Options{MaxBytes: max(24<<20, chunkBytes)})
	defer a.Close()
	o := new(oracle)
	rounds := 40_000
	if invariant.Debug {
		rounds = 3_000
	}
	type object struct {
		r    Ref
		n    int
		mark byte
	}
	handover := make(chan object, 64)
	free := func(x object) {
		b := a.Bytes(x.r, 0, x.n)
		if b[0] != x.mark || b[x.n/2] != x.mark || b[x.n-1] != x.mark {
			t.Errorf("%#x: contents changed", x.r)
		}
		o.drop(x.r, a.Size(x.r))
		a.Free(x.r)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(g), 7))
			var mine []object
			for i := range rounds {
				limit := 16 << (i / 500 % 13) // the sizes in use change all the time
				if rng.IntN(100) < 52 && len(mine) < 300 {
					n := 1 + rng.IntN(limit)
					if rng.IntN(500) == 0 {
						n = 1 + rng.IntN(chunkBytes/16)
					}
					if r := a.Alloc(n); r != 0 {
						o.claim(t, r, a.Size(r), uint32(g+1))
						mark := byte(rng.Uint32())
						b := a.Bytes(r, 0, n)
						b[0], b[n/2], b[n-1] = mark, mark, mark
						mine = append(mine, object{r, n, mark})
					}
				} else if len(mine) > 0 {
					j := rng.IntN(len(mine))
					x := mine[j]
					mine[j] = mine[len(mine)-1]
					mine = mine[:len(mine)-1]
					select {
					case handover <- x:
					default:
						free(x)
					}
				}
				select {
				case x := <-handover:
					free(x)
				default:
				}
				if i%1000 == 999 {
					a.Trim()
				}
			}
			for _, x := range mine {
				free(x)
			}
		}()
	}
	wg.Wait()
	close(handover)
	for x := range handover {
		free(x)
	}
	require.Zero(t, a.Used())
	a.Trim()
	require.Zero(t, a.Held())
	require.Zero(t, a.Committed())
}

// TestSpansChangeClass has goroutines fill and empty a few spans of changing
// classes in one small arena while others trim it, so that an allocator often
// finds the span it was about to use released, or made one of another class.
func TestSpansChangeClass(t *testing.T) {
	if invariant.Debug {
		invariant.SetPausing(true)
		defer invariant.SetPausing(false)
	}
	a := New(Options{MaxBytes: 4 * chunkBytes})
	defer a.Close()
	o := new(oracle)
	rounds := 4000
	if invariant.Debug {
		rounds = 500
	}
	sizes := []int{1000, 2000, 4000}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rng := rand.New(rand.NewPCG(uint64(g), 8))
			for range rounds {
				var refs [20]Ref
				n := sizes[rng.IntN(len(sizes))]
				for i := range rng.IntN(len(refs)) {
					if refs[i] = a.Alloc(n); refs[i] == 0 {
						t.Errorf("no memory for %d bytes", n)
						return
					}
					if size := a.Size(refs[i]); size < n {
						t.Errorf("%d bytes instead of %d", size, n)
						return
					}
					o.claim(t, refs[i], a.Size(refs[i]), uint32(g+1))
				}
				for _, r := range refs {
					if r != 0 {
						o.drop(r, a.Size(r))
						a.Free(r)
					}
				}
				if rng.IntN(4) == 0 {
					a.Trim()
				}
			}
		}()
	}
	wg.Wait()
	require.Zero(t, a.Used())
	a.Trim()
	require.Zero(t, a.Held())
	require.Zero(t, a.Committed())
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	a := New(Options{})
	defer a.Close()
	var refs [100]Ref
	n := testing.AllocsPerRun(100, func() {
		for i := range refs {
			refs[i] = a.Alloc(50 * i)
		}
		for _, r := range refs {
			a.Free(r)
		}
	})
	require.Zero(t, n)
}
