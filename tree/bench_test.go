package tree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/pulkdb/db/pagecache"
)

const benchKeys = 1_000_000

func benchKey(dst []byte, i int) []byte {
	return binary.BigEndian.AppendUint64(append(dst[:0], "user"...), uint64(i)*0x9e3779b97f4a7c15)
}

var benchTree = sync.OnceValue(func() *Tree {
	t, err := Open(Options{Cache: pagecache.Options{InMemory: true, CacheSize: 1 << 30}, Durability: None})
	if err != nil {
		panic(err)
	}
	value := make([]byte, 100)
	var key []byte
	for i := range benchKeys {
		key = benchKey(key, i)
		if err := t.Set(key, value); err != nil {
			panic(err)
		}
	}
	return t
})

func BenchmarkGet(b *testing.B) {
	t := benchTree()
	rng := rand.New(rand.NewPCG(1, 2))
	var key, dst []byte
	b.ReportAllocs()
	for b.Loop() {
		key = benchKey(key, rng.IntN(benchKeys))
		var err error
		if dst, err = t.GetTo(dst[:0], key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetParallel(b *testing.B) {
	t := benchTree()
	b.RunParallel(func(pb *testing.PB) {
		rng := rand.New(rand.NewPCG(1, rand.Uint64()))
		var key, dst []byte
		for pb.Next() {
			key = benchKey(key, rng.IntN(benchKeys))
			var err error
			if dst, err = t.GetTo(dst[:0], key); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkSet(b *testing.B) {
	t := benchTree()
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 100)
	var key []byte
	b.ReportAllocs()
	for b.Loop() {
		key = benchKey(key, rng.IntN(benchKeys))
		if err := t.Set(key, value); err != nil {
			b.Fatal(err)
		}
	}
}

// Batches of 1,000 random rows; an operation is a row.
func BenchmarkApply(b *testing.B) {
	t := benchTree()
	rng := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 100)
	ops := make([]Op, 1000)
	b.ReportAllocs()
	for n := 0; n < b.N; n += len(ops) {
		for i := range ops {
			ops[i] = Op{Key: benchKey(ops[i].Key, rng.IntN(benchKeys)), Kind: OpSet, Value: value}
		}
		slices.SortFunc(ops, func(a, b Op) int { return bytes.Compare(a.Key, b.Key) })
		if err := t.Apply(slices.CompactFunc(slices.Clone(ops), func(a, b Op) bool { return bytes.Equal(a.Key, b.Key) })); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScan(b *testing.B) {
	t := benchTree()
	rows := 0
	it := t.Scan(nil, nil)
	defer it.Close()
	b.ReportAllocs()
	for b.Loop() {
		if !it.Next() {
			it.First()
		}
		rows += len(it.Value())
	}
}

func BenchmarkScan100(b *testing.B) {
	t := benchTree()
	rng := rand.New(rand.NewPCG(1, 2))
	var key []byte
	b.ReportAllocs()
	for b.Loop() {
		key = benchKey(key, rng.IntN(benchKeys))
		it := t.Scan(key, nil)
		for range 100 {
			if !it.Next() {
				break
			}
		}
		it.Close()
	}
}

// Loads of 100-byte values into an empty tree in memory.
func BenchmarkLoad(b *testing.B) {
	for _, order := range []string{"ascending", "random"} {
		b.Run(order, func(b *testing.B) {
			t, err := Open(Options{Cache: pagecache.Options{InMemory: true, CacheSize: 1 << 30}, Durability: None})
			if err != nil {
				b.Fatal(err)
			}
			defer t.Close()
			value, key, i := make([]byte, 100), []byte(nil), 0
			for b.Loop() {
				if order == "random" {
					key = benchKey(key, i)
				} else {
					key = fmt.Appendf(key[:0], "user%012d", i)
				}
				if err := t.Set(key, value); err != nil {
					b.Fatal(err)
				}
				i++
			}
			m := t.Metrics()
			b.ReportMetric(float64(m.Cache.MemoryBytes)/float64(i*116), "mem/user")
		})
	}
}
