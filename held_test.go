package db_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// TestHeldSnapshot holds a snapshot while ten times as much is written as there
// is, and reads it before, meanwhile and afterwards: always the same. Closing it
// gives back the memory and the versions. PULK_HELD is the number of writes:
// 10,000, or 1,000,000 for "make held".
func TestHeldSnapshot(t *testing.T) {
	writes := 10_000
	if s := os.Getenv("PULK_HELD"); s != "" {
		var err error
		writes, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	for name, opts := range map[string]*db.Options{
		"tiny":      db.Options{Durability: db.DurabilityNone}.Tiny(),
		"on disk":   {Durability: db.DurabilityNone},
		"in memory": {InMemory: true},
	} {
		t.Run(name, func(t *testing.T) { heldSnapshot(t, opts, writes) })
	}
}

// heldKey is a key of a row that there is at first, and of one that there is not.
func heldKey(i int) []byte    { return fmt.Appendf(nil, "row %08d", i) }
func heldNewKey(i int) []byte { return fmt.Appendf(nil, "row %08d new", i) }

func heldValue(i, n int) []byte { return fmt.Appendf(nil, "%08d %040d", i, n) }

func heldSnapshot(t *testing.T, opts *db.Options, writes int) {
	count := writes / 10
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := open(t, t.TempDir(), opts)
	// As the writes below leave it, so that it can be compared.
	fill := func() {
		require.NoError(t, d.DeleteRange(nil, nil))
		for i := range count {
			require.NoError(t, d.Set(heldKey(i), heldValue(i, 0)))
		}
	}
	fill()
	alone := heldWrites(t, d, seed, count, writes)
	fill()
	require.Eventually(t, func() bool { return d.TreeMetrics().KeptBytes == 0 }, 20*time.Second, 5*time.Millisecond)
	before := d.TreeMetrics()

	s := d.Snapshot()
	check := func() {
		t.Helper()
		for _, back := range []bool{false, true} {
			it := s.Scan(nil, nil)
			for n := range count {
				i, ok := n, false
				if back {
					i, ok = count-1-n, it.Prev()
				} else {
					ok = it.Next()
				}
				if !ok || !bytes.Equal(it.Key(), heldKey(i)) || !bytes.Equal(it.Value(), heldValue(i, 0)) {
					t.Fatalf("row %d: %s = %s, %v", i, it.Key(), it.Value(), it.Err())
				}
			}
			if back {
				require.False(t, it.Prev())
			} else {
				require.False(t, it.Next())
			}
			require.NoError(t, it.Close())
		}
	}
	check()
	var stop atomic.Bool
	var readers sync.WaitGroup
	for g := range 2 {
		r := rand.New(rand.NewPCG(seed, uint64(100+g)))
		readers.Go(func() {
			for !stop.Load() && !t.Failed() {
				i := r.IntN(count)
				value, err := s.Get(heldKey(i))
				if err != nil || !bytes.Equal(value, heldValue(i, 0)) {
					t.Errorf("row %d: %s, %v", i, value, err)
				}
				if has, err := s.Has(heldNewKey(i)); err != nil || has {
					t.Errorf("new row %d: %v, %v", i, has, err)
				}
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	with := heldWrites(t, d, seed+1, count, writes)
	stop.Store(true)
	readers.Wait()
	check()
	during := d.TreeMetrics()
	require.NotZero(t, during.Cache.OldestMoment)
	require.NotZero(t, during.KeptBytes)
	require.NoError(t, s.Close())
	fill()
	var after = d.TreeMetrics()
	ok := func() bool {
		after = d.TreeMetrics()
		return after.KeptBytes == 0 && after.KeptLeaves == 0 && after.Cache.OpenMoments == 0 &&
			after.Cache.MemoryBytes < before.Cache.MemoryBytes+before.Cache.MemoryBytes/4+64<<10
	}
	returned := time.Now()
	for deadline := returned.Add(20 * time.Second); !ok() && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%d writes: %.0f/s alone, %.0f/s under the snapshot and its readers", writes, alone, with)
	t.Logf("memory %d KiB, %d KiB with the snapshot, %d KiB %v after it; versions kept %d KiB in %d leaves, then %d in %d; live in the log %d KiB, %d KiB, %d KiB",
		before.Cache.MemoryBytes>>10, during.Cache.MemoryBytes>>10, after.Cache.MemoryBytes>>10, time.Since(returned).Round(time.Millisecond),
		during.KeptBytes>>10, during.KeptLeaves, after.KeptBytes, after.KeptLeaves,
		before.Cache.LiveBytes>>10, during.Cache.LiveBytes>>10, after.Cache.LiveBytes>>10)
	require.True(t, ok(), "memory or versions have not come back")
	require.NoError(t, d.CheckTree())
}

// heldWrites writes from several goroutines and returns the writes per second.
func heldWrites(t *testing.T, d *db.DB, seed uint64, count, writes int) float64 {
	const writers = 4
	var wait sync.WaitGroup
	start := time.Now()
	for w := range writers {
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		wait.Go(func() {
			for n := range writes / writers {
				i := r.IntN(count)
				var err error
				switch r.IntN(16) {
				case 0:
					err = d.Delete(heldKey(i))
				case 1:
					err = d.Set(heldNewKey(i), heldValue(i, n))
				case 2:
					if r.IntN(20) == 0 {
						err = d.DeleteRange(heldKey(i), heldKey(i+r.IntN(20)))
						break
					}
					fallthrough
				default:
					err = d.Set(heldKey(i), heldValue(i, n+1))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	return float64(writes) / time.Since(start).Seconds()
}

// An iteratorModel is a store, and a copy of what is in it; mu is held for a
// write to both, and for a copy of the copy together with the making of an
// iterator.
type iteratorModel struct {
	db   *db.DB
	mu   sync.Mutex
	rows map[string]string
}

// TestIteratorModel moves iterators at random, with seeks, both ways and within
// bounds, while others insert, delete and erase so that leaves are split, folded
// and evicted. An iterator must be like a sorted copy taken when it was made.
func TestIteratorModel(t *testing.T) {
	length := 3 * time.Second
	if testing.Short() {
		length /= 3
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	m := &iteratorModel{rows: map[string]string{}}
	m.db = open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone, Merger: concat}.Tiny().Folding(4))
	deadline := time.Now().Add(length)
	var iterators, moves atomic.Int64
	var wait sync.WaitGroup
	for g := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		wait.Go(func() {
			for n := 0; time.Now().Before(deadline) && !t.Failed(); n++ {
				var err error
				if g < 2 {
					err = m.write(r)
				} else {
					iterators.Add(1)
					err = m.walk(r, &moves)
				}
				if err != nil {
					t.Errorf("goroutine %d, round %d: %v", g, n, err)
				}
			}
		})
	}
	wait.Wait()
	x := m.db.TreeMetrics()
	t.Logf("%d iterators, %d moves; %d splits, %d folds, %d evictions, %d leaves shrunk",
		iterators.Load(), moves.Load(), x.LeafSplits, x.Cache.Folds, x.Cache.Evictions, x.ShrunkLeaves)
	require.NoError(t, sameAs(m.db.Scan(nil, nil), false, m.rows))
	require.NoError(t, m.db.CheckTree())
	require.NotZero(t, iterators.Load())
	require.NotZero(t, x.LeafSplits)
	require.NotZero(t, x.Cache.Evictions)
}

func (m *iteratorModel) key(r *rand.Rand) string {
	return fmt.Sprintf("%03d/%d", r.IntN(700), r.IntN(3))
}

// write does one write of some kind.
func (m *iteratorModel) write(r *rand.Rand) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := m.key(r)
	value := fmt.Sprintf("%d %0*d", r.Uint32(), r.IntN(100), 0)
	if r.IntN(100) == 0 {
		value = fmt.Sprintf("%05000d", r.Uint32())
	}
	switch n := r.IntN(60); {
	case n == 0:
		hi := m.key(r)
		maps.DeleteFunc(m.rows, func(k, _ string) bool { return k >= key && k < hi })
		return m.db.DeleteRange([]byte(key), []byte(hi))
	case n < 4:
		b := m.db.NewBatch()
		for range 30 {
			key := m.key(r)
			m.rows[key] = value
			if err := b.Set([]byte(key), []byte(value)); err != nil {
				return err
			}
		}
		return b.Commit()
	case n < 20:
		delete(m.rows, key)
		return m.db.Delete([]byte(key))
	case n < 23 && len(m.rows[key]) < 1000:
		m.rows[key] += value[:8]
		return m.db.Merge([]byte(key), []byte(value[:8]))
	}
	m.rows[key] = value
	return m.db.Set([]byte(key), []byte(value))
}

// A modelWalk is an iterator and what it must be like: at is the index of the row
// where it stands, -1 or len(keys) off them.
type modelWalk struct {
	it   *db.Iterator
	keys []string
	rows map[string]string
	at   int

	moves int
}

// walk makes an iterator, of the store or of a snapshot, and moves it.
func (m *iteratorModel) walk(r *rand.Rand, moves *atomic.Int64) (err error) {
	var lo, hi []byte
	if r.IntN(3) > 0 {
		lo = []byte(m.key(r))
	}
	if r.IntN(3) > 0 {
		hi = []byte(m.key(r))
	}
	m.mu.Lock()
	w := &modelWalk{rows: maps.Clone(m.rows), at: -1}
	if r.IntN(4) == 0 {
		s := m.db.Snapshot()
		m.mu.Unlock()
		time.Sleep(time.Duration(r.IntN(2000)) * time.Microsecond)
		w.it = s.Scan(lo, hi)
		if r.IntN(2) == 0 {
			err = s.Close() // the iterator goes on
		} else {
			defer s.Close()
		}
	} else {
		w.it = m.db.Scan(lo, hi)
		m.mu.Unlock()
	}
	defer w.it.Close()
	for key := range w.rows {
		if key >= string(lo) && (hi == nil || key < string(hi)) {
			w.keys = append(w.keys, key)
		}
	}
	slices.Sort(w.keys)
	var script []string
	for range 20 + r.IntN(300) {
		if err == nil {
			script = append(script, w.move(r, m.key(r)))
			err = w.check()
		}
		moves.Add(1)
	}
	if err == nil {
		err = w.it.Close()
	}
	if err != nil {
		return fmt.Errorf("[%s, %s) after %v: %w", lo, hi, script[max(0, len(script)-20):], err)
	}
	return nil
}

// move moves the iterator and the model, and says how.
func (w *modelWalk) move(r *rand.Rand, key string) string {
	w.moves++
	find := func() int { i, _ := slices.BinarySearch(w.keys, key); return i }
	switch n := r.IntN(40); {
	case n == 0:
		w.it.First()
		if w.at = 0; len(w.keys) == 0 {
			w.at = len(w.keys)
		}
		return "first"
	case n == 1:
		w.it.Last()
		w.at = len(w.keys) - 1
		return "last"
	case n < 5:
		w.it.SeekGE([]byte(key))
		w.at = find()
		return "ge " + key
	case n < 8:
		w.it.SeekLT([]byte(key))
		w.at = find() - 1
		return "lt " + key
	case n < 20 && r.IntN(8) > 0, n < 11:
		w.it.Prev()
		if w.at = max(w.at-1, -1); w.moves == 1 {
			w.at = len(w.keys) - 1 // a new iterator stands before its first row
		}
		return "prev"
	}
	w.it.Next()
	w.at = min(w.at+1, len(w.keys))
	return "next"
}

func (w *modelWalk) check() error {
	valid := w.at >= 0 && w.at < len(w.keys)
	if err := w.it.Err(); err != nil {
		return err
	}
	if w.it.Valid() != valid {
		return fmt.Errorf("valid: %v, with row %d of %d", w.it.Valid(), w.at, len(w.keys))
	}
	if !valid {
		return nil
	}
	key := w.keys[w.at]
	if string(w.it.Key()) != key || string(w.it.Value()) != w.rows[key] {
		return fmt.Errorf("row %d: %s = %.40q, want %s = %.40q", w.at, w.it.Key(), w.it.Value(), key, w.rows[key])
	}
	return nil
}
