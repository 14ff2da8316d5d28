package arena

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/pulkdb/db/internal/invariant"
)

var benchSizes = []int{64, 200, 4 << 10, 6 << 10}

var sink [64]struct {
	b []byte
	_ [40]byte
}

// BenchmarkAllocFree allocates and frees with 64 objects of a goroutine alive.
func BenchmarkAllocFree(b *testing.B) {
	for _, goroutines := range []int{1, 2} {
		for _, n := range benchSizes {
			b.Run(fmt.Sprintf("arena/%d/g%d", n, goroutines), func(b *testing.B) {
				a := New(Options{})
				defer a.Close()
				inParallel(b, goroutines, func(g, rounds int) {
					var ring [64]Ref
					for i := range rounds {
						if r := ring[i%64]; r != 0 {
							a.Free(r)
						}
						ring[i%64] = a.Alloc(n)
					}
				})
			})
			b.Run(fmt.Sprintf("make/%d/g%d", n, goroutines), func(b *testing.B) {
				inParallel(b, goroutines, func(g, rounds int) {
					var ring [64][]byte
					for i := range rounds {
						ring[i%64] = make([]byte, n)
					}
					sink[g].b = ring[0]
				})
			})
		}
	}
}

// inParallel runs f in some goroutines, b.N rounds each.
func inParallel(b *testing.B, goroutines int, f func(g, rounds int)) {
	var wg sync.WaitGroup
	b.ResetTimer()
	for g := range goroutines {
		wg.Add(1)
		go func() {
			defer wg.Done()
			f(g, b.N)
		}()
	}
	wg.Wait()
}

// BenchmarkDependentReads follows a random cycle through 512 MiB of 4 KiB pages,
// one word in each: every step is a cache miss that the next one waits for.
func BenchmarkDependentReads(b *testing.B) {
	if invariant.Debug {
		b.Skip("meaningless in debug builds")
	}
	const pages = 512 << 20 / 4096
	cycle := rand.New(rand.NewPCG(3, 4)).Perm(pages)
	wordOf := func(i int) int { return i * 2654435761 % 512 * 8 }

	b.Run("arena", func(b *testing.B) {
		a := New(Options{})
		defer a.Close()
		refs := make([]Ref, pages)
		for i := range refs {
			refs[i] = a.Alloc(4096)
			clear(a.Bytes(refs[i], 0, 4096))
		}
		for i, p := range cycle {
			next := cycle[(i+1)%pages]
			a.Word(refs[p], wordOf(p)).Store(uint64(refs[next]) + uint64(wordOf(next)))
		}
		at := uint64(refs[cycle[0]]) + uint64(wordOf(cycle[0]))
		b.ResetTimer()
		for range b.N {
			at = *(*uint64)(a.Pointer(Ref(at)))
		}
		sinkWord = at
	})
	b.Run("heap", func(b *testing.B) {
		type page [512]unsafe.Pointer
		heap := make([]*page, pages)
		for i := range heap {
			heap[i] = new(page)
		}
		for i, p := range cycle {
			next := cycle[(i+1)%pages]
			heap[p][wordOf(p)/8] = unsafe.Pointer(&heap[next][wordOf(next)/8])
		}
		at := unsafe.Pointer(&heap[cycle[0]][wordOf(cycle[0])/8])
		b.ResetTimer()
		for range b.N {
			at = *(*unsafe.Pointer)(at)
		}
		runtime.KeepAlive(heap)
		sinkWord = uint64(uintptr(at))
	})
}

var sinkWord uint64

// BenchmarkSmallDeltas holds 1 M deltas of 64 bytes in chains of 16 and prints
// what that costs: resident memory, and the CPU time and length of a collection.
func BenchmarkSmallDeltas(b *testing.B) {
	if invariant.Debug {
		b.Skip("meaningless in debug builds")
	}
	const deltas, chain = 1 << 20, 16
	type delta struct {
		next *delta
		_    [56]byte
	}
	measure := func(b *testing.B, build func() any) {
		for range b.N {
			debugFree()
			rss := residentBytes()
			start := time.Now()
			keep := build()
			took := time.Since(start)
			debugGC := collect()
			b.ReportMetric(float64(residentBytes()-rss)/(1<<20), "MiB-resident")
			b.ReportMetric(float64(took.Nanoseconds())/deltas, "ns/delta")
			b.ReportMetric(float64(debugGC.Microseconds())/1000, "ms/GC")
			runtime.KeepAlive(keep)
		}
	}
	b.Run("heap", func(b *testing.B) {
		measure(b, func() any {
			heads := make([]*delta, deltas/chain)
			for i := range deltas {
				heads[i%len(heads)] = &delta{next: heads[i%len(heads)]}
			}
			return heads
		})
	})
	b.Run("arena", func(b *testing.B) {
		measure(b, func() any {
			a := New(Options{})
			b.Cleanup(a.Close)
			heads := make([]Ref, deltas/chain)
			for i := range deltas {
				r := a.Alloc(64)
				clear(a.Bytes(r, 0, 64))
				*(*Ref)(a.Pointer(r)) = heads[i%len(heads)]
				heads[i%len(heads)] = r
			}
			return heads
		})
	})
}

func debugFree() {
	runtime.GC()
	runtime.GC()
}

// collect runs collections and returns what one takes.
func collect() time.Duration {
	const n = 5
	start := time.Now()
	for range n {
		runtime.GC()
	}
	return time.Since(start) / n
}

// residentBytes is 0 where the system does not say.
func residentBytes() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	_, _ = fmt.Fscan(strings.NewReader(string(text)), &size, &resident)
	return resident * int64(os.Getpagesize())
}
