package tree

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

// tinyOnDisk evicts, consolidates, cleans and takes snapshots all the time.
func tinyOnDisk(fs vfs.FS) Options {
	o := tiny()
	o.Cache = pagecache.Options{
		Dir: "store", FS: fs,
		CacheSize: 128 << 10, MergeDeltas: 4, RewriteShare: 50, LoadReads: 3,
		SegmentBytes: 32 << 10, BufferBytes: 4 << 10, SnapshotBytes: 64 << 10,
	}
	return o
}

const (
	workers    = 4
	workerKeys = 120
	groupKeys  = 12
)

// A worker owns some keys. Each value begins with a number that only grows, so
// after a crash what is found must lie between what was acknowledged last and
// what was issued last.
type worker struct {
	id     int
	rng    *rand.Rand
	issued [workerKeys]int64
	acked  [workerKeys]atomic.Int64
	group  int64 // number of the last batch, in all of the group's keys
	ackedG atomic.Int64
	issueG atomic.Int64
	next   int64
}

func (w *worker) key(i int) []byte { return fmt.Appendf(nil, "w%d/%05d", w.id, i*37%1000) }
func (w *worker) groupKey(i int) []byte {
	return fmt.Appendf(nil, "%02d/group%d/%s", i*7%groupKeys, w.id, strings.Repeat("x", i*5))
}

func numbered(n int64, size int) []byte {
	return append(strconv.AppendInt(nil, n, 10), strings.Repeat(".", size)...)
}

func numberOf(v string) int64 {
	v, _, _ = strings.Cut(v, ".")
	n, _ := strconv.ParseInt(v, 10, 64)
	return n
}

func (w *worker) step(tr *Tree) error {
	w.next++
	i := w.rng.IntN(workerKeys)
	switch w.rng.IntN(10) {
	case 0:
		w.group++
		w.issueG.Store(w.group)
		var ops []Op
		for i := range groupKeys {
			ops = append(ops, Op{Key: w.groupKey(i), Value: numbered(w.group, i*i)})
		}
		slices.SortFunc(ops, func(a, b Op) int { return strings.Compare(string(a.Key), string(b.Key)) })
		if err := tr.Apply(ops); err != nil {
			return err
		}
		w.ackedG.Store(w.group)
	case 1:
		return w.increment(tr)
	default:
		size := w.rng.IntN(50)
		if w.rng.IntN(20) == 0 {
			size = 500
		}
		w.issued[i] = w.next
		if err := tr.Set(w.key(i), numbered(w.next, size)); err != nil {
			return err
		}
		w.acked[i].Store(w.next)
		got, err := tr.GetTo(nil, w.key(i))
		if err != nil || numberOf(string(got)) != w.next {
			return fmt.Errorf("worker %d reads %q for %q, wrote %d: %w", w.id, got, w.key(i), w.next, err)
		}
	}
	return nil
}

var counterKey = []byte("counter")

// increment adds one to the counter that all share.
func (w *worker) increment(tr *Tree) error {
	var old []byte
	for {
		n := numberOf(string(old))
		swapped, current, err := tr.CompareAndSwap(counterKey, old, numbered(n+1, 0))
		if err != nil {
			return err
		}
		if swapped {
			increments.Add(1)
			return nil
		}
		old = current
	}
}

var increments atomic.Int64

// read scans forwards and backwards: both ways the same rows, the batches whole.
func readBothWays(tr *Tree) error {
	it := tr.Scan(nil, nil)
	defer it.Close()
	var forward, backward []string
	groups := map[string]int64{}
	for ok := it.Next(); ok; ok = it.Next() {
		row := string(it.Key()) + "=" + string(it.Value())
		forward = append(forward, row)
		if g := strings.Index(row, "group"); g == 3 {
			n := numberOf(string(it.Value()))
			if last, ok := groups[row[g:g+6]]; ok && last != n {
				return fmt.Errorf("a batch is seen in part: %d and %d", last, n)
			}
			groups[row[g:g+6]] = n
		}
	}
	for ok := it.Prev(); ok; ok = it.Prev() {
		backward = append(backward, string(it.Key())+"="+string(it.Value()))
	}
	slices.Reverse(backward)
	if !slices.Equal(forward, backward) {
		return fmt.Errorf("%d rows forwards, %d backwards, or others", len(forward), len(backward))
	}
	if !slices.IsSorted(forward) {
		return fmt.Errorf("rows out of order")
	}
	return it.Err()
}

// run lets the workers and two readers go until d is over.
func run(t *testing.T, tr *Tree, ws []*worker, d time.Duration, during func()) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	until := func(f func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(); err != nil {
					t.Errorf("%v", err)
					return
				}
			}
		})
	}
	for _, w := range ws {
		until(func() error { return w.step(tr) })
	}
	until(func() error { return readBothWays(tr) })
	until(func() error { time.Sleep(time.Millisecond); return tr.Check() })
	time.Sleep(d)
	if during != nil {
		during()
	}
	close(stop)
	wg.Wait()
}

func newWorkers(seed uint64) []*worker {
	var ws []*worker
	for id := range workers {
		ws = append(ws, &worker{id: id, rng: rand.New(rand.NewPCG(seed, uint64(id)))})
	}
	return ws
}

// verify compares the tree with what the workers know.
func verify(t *testing.T, tr *Tree, ws []*worker, acked [][]int64, ackedG []int64) {
	require.NoError(t, tr.Check())
	for _, w := range ws {
		for i := range workerKeys {
			got, _ := get(t, tr, string(w.key(i)))
			n := numberOf(got)
			require.GreaterOrEqual(t, n, acked[w.id][i], "worker %d key %q", w.id, w.key(i))
			require.LessOrEqual(t, n, w.issued[i], "worker %d key %q", w.id, w.key(i))
			w.issued[i] = n
			w.acked[i].Store(n)
		}
		first, _ := get(t, tr, string(w.groupKey(0)))
		n := numberOf(first)
		require.GreaterOrEqual(t, n, ackedG[w.id])
		require.LessOrEqual(t, n, w.issueG.Load())
		for i := range groupKeys {
			got, _ := get(t, tr, string(w.groupKey(i)))
			require.Equal(t, n, numberOf(got), "worker %d: a batch survived in part", w.id)
		}
		w.group = n
		w.issueG.Store(n)
		w.ackedG.Store(n)
	}
	require.NoError(t, readBothWays(tr))
}

func snapshotOfAcked(ws []*worker) (acked [][]int64, ackedG []int64) {
	for _, w := range ws {
		var of []int64
		for i := range w.acked {
			of = append(of, w.acked[i].Load())
		}
		acked = append(acked, of)
		ackedG = append(ackedG, w.ackedG.Load())
	}
	return acked, ackedG
}

// Writers, batches, counters and scans, then a restart, again and again.
func TestConcurrentRestarts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldHook = func(yieldPoint) {
		if rand.IntN(100) == 0 {
			time.Sleep(20 * time.Microsecond)
		}
	}
	t.Cleanup(func() { yieldHook = nil })
	fs := vfs.NewMem()
	ws := newWorkers(seed)
	increments.Store(0)
	for range 6 {
		tr, err := Open(tinyOnDisk(fs))
		require.NoError(t, err)
		run(t, tr, ws, 150*time.Millisecond, nil)
		acked, ackedG := snapshotOfAcked(ws)
		verify(t, tr, ws, acked, ackedG)
		got, _ := get(t, tr, string(counterKey))
		require.Equal(t, increments.Load(), numberOf(got))
		m := tr.Metrics()
		t.Logf("splits %d+%d, growths %d, finished %d, retries %d, owned %d, batch restarts %d, blind %d, evictions %d, loads %d, errors %d",
			m.LeafSplits, m.InnerSplits, m.RootGrowths, m.FinishedSplits, m.Retries, m.OwnedUpdates, m.BatchRestarts, m.BlindUpdates, m.Cache.Evictions, m.Cache.Loads, m.TendErrors)
		require.NoError(t, tr.Close())
	}
}

// The same, with the plug pulled: what was acknowledged is there, no batch in part.
func TestCrashes(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 99))
	fs := vfs.NewMem()
	ws := newWorkers(seed)
	for range 25 {
		o := tinyOnDisk(fs)
		o.Durability = Sync
		tr, err := Open(o)
		require.NoError(t, err)
		var acked [][]int64
		var ackedG []int64
		var crashed *vfs.Mem
		run(t, tr, ws, time.Duration(rng.IntN(30))*time.Millisecond, func() {
			acked, ackedG = snapshotOfAcked(ws)
			crashed = fs.CrashClone(int64(rng.Uint64() >> 1))
		})
		require.NoError(t, tr.Close())
		fs = crashed
		tr, err = Open(tinyOnDisk(fs))
		require.NoError(t, err)
		verify(t, tr, ws, acked, ackedG)
		require.NoError(t, tr.Close())
	}
}

// A write that comes to take its leaf's writer bit when the store has just been closed
// fails with ErrClosed. It looked at the mapping table, whose memory had been given back:
// the process ended.
func TestCloseBeforeOwning(t *testing.T) {
	var tr *Tree
	var armed bool
	tries := 0
	yieldHook = func(p yieldPoint) {
		if p != yieldUpdateRouted || !armed {
			return
		}
		armed = false // its own writes come here as well
		if tries++; tries <= appendTriesMax {
			set(t, tr, "b", fmt.Sprint("wins ", tries))
			armed = true
			return
		}
		require.NoError(t, tr.Close())
	}
	t.Cleanup(func() { yieldHook = nil })
	tr = openTree(t, tiny())
	set(t, tr, "a", "before")
	armed = true
	require.ErrorIs(t, tr.Set([]byte("b"), []byte("loses")), ErrClosed)
	require.Equal(t, appendTriesMax+1, tries)
}
