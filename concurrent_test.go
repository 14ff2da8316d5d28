package db_test

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// The load of the tests below: in short mode, and under the race detector,
// which makes all slower, one run still takes every path many times.
const (
	workers   = 8
	roundTime = 1500 * time.Millisecond
	rounds    = 3
)

// TestConcurrentModel lets goroutines write ranges of their own, each checked
// against a map, and count shared counters up by CompareAndSwap, while others
// commit batches across all ranges, and read. The store is reopened between
// rounds.
func TestConcurrentModel(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	opts := db.Options{Durability: db.DurabilityNone}.Tiny()
	c := &concurrent{}
	for w := range c.own {
		c.own[w] = map[string]string{}
	}
	for round := range rounds {
		c.db = open(t, dir, opts)
		c.compare(t)
		c.run(t, rand.New(rand.NewPCG(seed, uint64(round))))
		c.compare(t)
		require.NoError(t, c.db.Close())
	}
	t.Logf("%d operations, %d batches, %d increments", c.ops.Load(), c.generation.Load(), c.increments())
}

// A concurrent is a store under load and what must be in it.
type concurrent struct {
	db         *db.DB
	own        [workers]map[string]string // owned by worker w during a round
	counters   [4]atomic.Int64
	generation atomic.Int64 // of the last batch that was acknowledged
	ops        atomic.Int64
}

func (c *concurrent) increments() (n int64) {
	for i := range c.counters {
		n += c.counters[i].Load()
	}
	return n
}

// spread is the number of keys of one batch; they lie between the ranges of the
// workers, in different leaves.
const spread = 3 * workers

func spreadKey(i int) []byte { return fmt.Appendf(nil, "w%02d/%04d/batch", i%workers, i*37) }

func (c *concurrent) run(t *testing.T, random *rand.Rand) {
	deadline := time.Now().Add(roundTime)
	if testing.Short() {
		deadline = time.Now().Add(roundTime / 3)
	}
	var wait sync.WaitGroup
	loop := func(work func(r *rand.Rand) error) {
		r := rand.New(rand.NewPCG(random.Uint64(), 0))
		wait.Go(func() {
			for time.Now().Before(deadline) && !t.Failed() {
				if err := work(r); err != nil {
					t.Error(err)
					return
				}
				c.ops.Add(1)
			}
		})
	}
	for w := range workers {
		loop(func(r *rand.Rand) error { return c.work(w, r) })
	}
	for range 2 {
		loop(c.increment)
	}
	loop(c.commit)
	for range 2 {
		loop(c.readBatch)
		loop(c.scanMoment)
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// work does one operation in the range of worker w.
func (c *concurrent) work(w int, r *rand.Rand) error {
	n := r.IntN(1000)
	key := fmt.Sprintf("w%02d/%04d", w, n)
	want, present := c.own[w][key]
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		value := fmt.Sprintf("%d %0*d", r.Uint32(), r.IntN(100), 0)
		if r.IntN(200) == 0 {
			value = fmt.Sprintf("%05000d", r.Uint32())
		}
		c.own[w][key] = value
		return c.db.Set([]byte(key), []byte(value))
	case 4, 5:
		delete(c.own[w], key)
		return c.db.Delete([]byte(key))
	case 6:
		return c.workBatch(w, r)
	case 7:
		swapped, current, err := c.db.CompareAndSwap([]byte(key), nil, []byte("created"))
		if err == nil && (swapped == present || string(current) != want) {
			return fmt.Errorf("CompareAndSwap(%s): %v %q; the value is %q", key, swapped, current, want)
		}
		if swapped {
			c.own[w][key] = "created"
		}
		return err
	}
	got, err := c.db.Get([]byte(key))
	if errors.Is(err, db.ErrNotFound) && !present {
		return nil
	}
	if err != nil || string(got) != want {
		return fmt.Errorf("Get(%s): %q, %w; want %q", key, got, err, want)
	}
	return nil
}

func (c *concurrent) workBatch(w int, r *rand.Rand) error {
	b := c.db.NewBatch()
	for range 1 + r.IntN(20) {
		key := fmt.Sprintf("w%02d/%04d", w, r.IntN(1000))
		if r.IntN(3) == 0 {
			delete(c.own[w], key)
			if err := b.Delete([]byte(key)); err != nil {
				return err
			}
			continue
		}
		value := fmt.Sprint("batch ", r.Uint32())
		c.own[w][key] = value
		if err := b.Set([]byte(key), []byte(value)); err != nil {
			return err
		}
	}
	return b.Commit()
}

func counterKey(i int) []byte { return fmt.Appendf(nil, "counter %d", i) }

// increment counts one counter up.
func (c *concurrent) increment(r *rand.Rand) error {
	i := r.IntN(len(c.counters))
	old := []byte(nil)
	for {
		n, _ := strconv.Atoi(string(old))
		swapped, current, err := c.db.CompareAndSwap(counterKey(i), old, strconv.AppendInt(nil, int64(n)+1, 10))
		if err != nil {
			return err
		}
		if swapped {
			c.counters[i].Add(1)
			return nil
		}
		old = current
	}
}

// commit sets all spread keys to the next generation in one batch. Only one
// goroutine does.
func (c *concurrent) commit(*rand.Rand) error {
	b := c.db.NewBatch()
	generation := c.generation.Load() + 1
	for i := range spread {
		if err := b.Set(spreadKey(i), fmt.Append(nil, generation)); err != nil {
			return err
		}
	}
	if err := b.Commit(); err != nil {
		return err
	}
	c.generation.Store(generation)
	return nil
}

// readBatch reads the spread keys one by one. No generation is older than the
// one read before it, or than the one acknowledged before the first read.
func (c *concurrent) readBatch(r *rand.Rand) error {
	least := c.generation.Load()
	for _, i := range r.Perm(spread) {
		value, err := c.db.Get(spreadKey(i))
		if errors.Is(err, db.ErrNotFound) && least == 0 {
			continue
		}
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || n < least {
			return fmt.Errorf("%s has generation %q after %d was seen: a batch in parts", spreadKey(i), value, least)
		}
		least = n
	}
	return nil
}

// scanMoment reads everything twice through one iterator, forwards and
// backwards: both must see the same, and every spread key the same generation.
func (c *concurrent) scanMoment(*rand.Rand) error {
	it := c.db.Scan(nil, nil)
	defer it.Close()
	isSpread := map[string]bool{}
	for i := range spread {
		isSpread[string(spreadKey(i))] = true
	}
	var sums [2]uint64
	for pass, moves := range [2][2]func() bool{{it.First, it.Next}, {it.Last, it.Prev}} {
		generations := map[string]int{}
		last := ""
		for ok := moves[0](); ok; ok = moves[1]() {
			key, value := string(it.Key()), string(it.Value())
			if last != "" && (key > last) == (pass == 1) {
				return fmt.Errorf("%q follows %q in pass %d", key, last, pass)
			}
			last = key
			h := fnv.New64a()
			h.Write(it.Key())
			h.Write([]byte{0})
			h.Write(it.Value())
			sums[pass] += h.Sum64()
			if isSpread[key] {
				generations[value]++
			}
		}
		if len(generations) > 1 {
			return fmt.Errorf("one moment has batches in parts: %v", generations)
		}
		for _, n := range generations {
			if n != spread {
				return fmt.Errorf("one moment has %d of %d keys of a batch", n, spread)
			}
		}
	}
	if sums[0] != sums[1] {
		return errors.New("an iterator saw two moments")
	}
	return it.Err()
}

// compare checks the whole store while nobody writes.
func (c *concurrent) compare(t *testing.T) {
	want := newOracle()
	for _, own := range c.own {
		for key, value := range own {
			want.ReplaceOrInsert(row{key, value})
		}
	}
	if generation := c.generation.Load(); generation > 0 {
		for i := range spread {
			want.ReplaceOrInsert(row{string(spreadKey(i)), fmt.Sprint(generation)})
		}
	}
	for i := range c.counters {
		if n := c.counters[i].Load(); n > 0 {
			want.ReplaceOrInsert(row{string(counterKey(i)), fmt.Sprint(n)})
		}
	}
	m := &model{db: c.db, rows: want}
	var wantRows, got []row
	m.rows.Ascend(func(r row) bool { wantRows = append(wantRows, r); return true })
	it := c.db.Scan(nil, nil)
	for key, value := range it.All() {
		got = append(got, row{string(key), string(value)})
	}
	require.NoError(t, it.Err())
	requireRows(t, wantRows, got)
}

// TestConcurrentClose closes a store that is in use: what follows fails with
// ErrClosed, and what was acknowledged is there afterwards.
func TestConcurrentClose(t *testing.T) {
	dir := t.TempDir()
	var acknowledged [workers]int
	for round := range 10 {
		d := open(t, dir, db.Options{Durability: db.Durability(round % 3)}.Tiny())
		for w, n := range acknowledged {
			for i := range n {
				found, err := d.Has(fmt.Appendf(nil, "%d/%d", w, i))
				require.NoError(t, err)
				require.True(t, found, "writer %d, key %d of %d", w, i, n)
			}
		}
		var wait sync.WaitGroup
		for w := range workers {
			wait.Go(func() {
				for {
					err := d.Set(fmt.Appendf(nil, "%d/%d", w, acknowledged[w]), []byte("v"))
					if err != nil {
						if !errors.Is(err, db.ErrClosed) {
							t.Error(err)
						}
						return
					}
					acknowledged[w]++
				}
			})
			wait.Go(func() {
				for {
					it := d.Scan(nil, nil)
					for range it.All() {
					}
					if err := it.Err(); err != nil {
						if !errors.Is(err, db.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		require.NoError(t, d.Close())
		wait.Wait()
	}
}
