package tree

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/pagecache"
)

// millionTree commits 1,000,000 rows at once to a store on disk.
func millionTree(b *testing.B, cacheBytes int64) *Tree {
	tr, err := Open(Options{Cache: pagecache.Options{Dir: b.TempDir(), CacheSize: cacheBytes}})
	require.NoError(b, err)
	ops := make([]Op, 1_000_000)
	for i := range ops {
		ops[i] = Op{Key: fmt.Appendf(nil, "key/%012d", i), Value: value(fmt.Sprint(i), 100)}
	}
	start := time.Now()
	require.NoError(b, tr.Commit(&Writes{Ops: ops}, nil))
	b.ReportMetric(time.Since(start).Seconds(), "s/commit")
	return tr
}

// One DeleteRange of 1,000,000 keys: its time and log bytes, and when the space
// of the leaves has been given back.
func BenchmarkDeleteRangeMillion(b *testing.B) {
	for _, cacheBytes := range []int64{1 << 30, 32 << 20} {
		b.Run(fmt.Sprintf("cache=%dMiB", cacheBytes>>20), func(b *testing.B) {
			for range b.N {
				tr := millionTree(b, cacheBytes)
				before, live := tr.cache.LogTail(), tr.Metrics().Cache.LiveBytes
				start := time.Now()
				require.NoError(b, tr.DeleteRange([]byte("key/"), []byte("key~")))
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms/delete")
				b.ReportMetric(float64(tr.cache.LogTail()-before), "logbytes")
				b.ReportMetric(float64(tr.Metrics().ErasedLeaves), "leaves")
				for tr.shrinker.pending.Load() > 0 || tr.Metrics().ShrunkLeaves < tr.Metrics().ErasedLeaves*9/10 && time.Since(start) < time.Minute {
					time.Sleep(10 * time.Millisecond)
				}
				b.ReportMetric(time.Since(start).Seconds(), "s/shrunk")
				b.ReportMetric(float64(tr.cache.LogTail()-before), "logbytes-shrunk")
				b.ReportMetric(float64(live)/1e6, "MB-live-before")
				b.ReportMetric(float64(tr.Metrics().Cache.LiveBytes)/1e6, "MB-live-after")
				it := tr.Scan(nil, nil)
				require.False(b, it.Next())
				require.NoError(b, it.Close())
				require.NoError(b, tr.Close())
			}
		})
	}
}

// One commit of 1 GiB.
func BenchmarkCommitGiB(b *testing.B) {
	for range b.N {
		tr, err := Open(Options{Cache: pagecache.Options{Dir: b.TempDir(), CacheSize: 256 << 20}})
		require.NoError(b, err)
		v := value("v", 1<<20)
		w := &Writes{}
		for i := range 1024 {
			w.Ops = append(w.Ops, Op{Key: fmt.Appendf(nil, "%06d", i), Value: v})
		}
		require.NoError(b, tr.Commit(w, nil))
		it := tr.Scan(nil, nil)
		n := 0
		for it.Next() {
			n++
		}
		require.NoError(b, it.Close())
		require.Equal(b, 1024, n)
		require.NoError(b, tr.Close())
	}
}
