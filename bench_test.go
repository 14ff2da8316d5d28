package db_test

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// BenchmarkStore measures single calls on a store of 1,000,000 random keys of
// 16 bytes with values of 100 bytes, all in memory and not waiting for syncs.
// Loading it takes some seconds before the first figure.
func BenchmarkStore(b *testing.B) {
	m := &million{dir: b.TempDir(), opts: &db.Options{CacheSize: 1 << 30, Durability: db.DurabilityNone}}
	m.open(b)
	defer func() { require.NoError(b, m.db.Close()) }()
	m.write(b, "load", 0)

	b.Run("GetTo", func(b *testing.B) {
		b.ReportAllocs()
		var key, value []byte
		for i := range b.N {
			key = millionKey(key[:0], scatter(i))
			var err error
			if value, err = m.db.GetTo(value[:0], key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("GetTo/parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			var key, value []byte
			i := rand.IntN(millionKeys)
			for ; pb.Next(); i++ {
				key = millionKey(key[:0], scatter(i))
				var err error
				if value, err = m.db.GetTo(value[:0], key); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("Set", func(b *testing.B) {
		b.ReportAllocs()
		var key, value []byte
		value = millionValue(nil, 0, 0)
		for i := range b.N {
			key = millionKey(key[:0], scatter(i))
			if err := m.db.Set(key, value); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Scan", func(b *testing.B) { // one row per iteration
		b.ReportAllocs()
		it := m.db.Scan(nil, nil)
		defer it.Close()
		for range b.N {
			if !it.Next() && !it.First() {
				b.Fatal(it.Err())
			}
		}
	})
	b.Run("ScanBackward", func(b *testing.B) {
		b.ReportAllocs()
		it := m.db.Scan(nil, nil)
		defer it.Close()
		for range b.N {
			if !it.Prev() && !it.Last() {
				b.Fatal(it.Err())
			}
		}
	})
}

// scatter spreads consecutive numbers over all keys.
func scatter(i int) int { return int(uint64(i) * 7919 % millionKeys) }

// BenchmarkSetSync measures writes that wait until they are on disk: by one
// goroutine, and by 64 that share syncs.
func BenchmarkSetSync(b *testing.B) {
	for _, parallel := range []int{1, 64} {
		b.Run(map[int]string{1: "1", 64: "64"}[parallel], func(b *testing.B) {
			d := open(b, b.TempDir(), nil)
			value := millionValue(nil, 0, 0)
			var next atomic.Int64
			set := func() error { return d.Set(millionKey(nil, int(next.Add(1))), value) }
			if parallel == 1 {
				for range b.N {
					if err := set(); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.SetParallelism(parallel)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := set(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkBatchSync measures batches of 100 writes that wait until they are on
// disk; one iteration is one batch.
func BenchmarkBatchSync(b *testing.B) {
	d := open(b, b.TempDir(), nil)
	value := millionValue(nil, 0, 0)
	batch := d.NewBatch()
	for i := range b.N {
		batch.Reset()
		for j := range 100 {
			if err := batch.Set(millionKey(nil, i*100+j), value); err != nil {
				b.Fatal(err)
			}
		}
		if err := batch.Commit(); err != nil {
			b.Fatal(err)
		}
	}
}
