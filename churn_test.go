package db_test

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// TestChurn runs all at once, in a store whose pages, segments, cache and
// page-table snapshots are tiny: writers who fill and empty their part of the key
// space, with single writes, batches, range deletes, operands, transactions and
// large values, read snapshots that stay open, scans both ways, and in the
// background eviction, cleaning, joins and page-table snapshots. Each writer knows
// what it must read. Then the store is closed, or the power has failed in the
// midst of it, and the next generation goes on with what is left: of each writer
// all that was acknowledged, and what was under way whole or not at all.
//
// PULK_CHURN says how long it runs, PULK_SEED with which seed.
func TestChurn(t *testing.T) {
	duration := 8 * time.Second
	if d, err := time.ParseDuration(os.Getenv("PULK_CHURN")); err == nil {
		duration = d
	}
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("PULK_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d", seed)
	c := &churn{T: t, seed: seed, fsys: vfs.NewMem()}
	for id := range churnWriters {
		c.writers = append(c.writers, &churner{churn: c, id: id, rows: newOracle()})
	}
	for deadline := time.Now().Add(duration); time.Now().Before(deadline) && !t.Failed(); c.generation++ {
		c.run()
	}
	t.Logf("%d generations, %d losses of power: %d writes, %d reads, %d scans, %d read snapshots; files took at most %d KiB beyond twice what was live",
		c.generation, c.crashes, c.writes.Load(), c.reads.Load(), c.scans.Load(), c.snapshots.Load(), c.above>>10)
}

const (
	churnWriters = 3
	churnKeys    = 400 // of each writer
	churnOps     = 600 // of each writer in a generation
	churnPhase   = 450 // writes after which a writer turns from filling to emptying
	churnHeld    = 3   // read snapshots that a writer has open at most
	// Two dozen segments: the fixed least, and what is written before the cleaner gets to
	// run on a busy machine.
	churnLeast = 24 * 64 << 10
)

// A churn is a store and those who use it, over its generations.
type churn struct {
	*testing.T
	seed       uint64
	fsys       *vfs.Mem
	db         *db.DB
	writers    []*churner
	generation int
	crashes    int
	lost       bool  // power, in the last generation
	above      int64 // the most that files took beyond twice what was live

	writes, reads, scans, snapshots atomic.Int64
}

// run is one generation.
func (c *churn) run() {
	random := rand.New(rand.NewPCG(c.seed, uint64(c.generation)))
	opts := db.Options{
		Logger:      quiet().Logger,
		CacheSize:   []int64{128 << 10, 256 << 10, 1 << 20}[random.IntN(3)],
		Compression: db.Compression(random.IntN(4)),
		Merger:      churnMerger,
	}
	var err error
	c.db, err = db.Open("store", opts.Tiny().On(c.fsys))
	require.NoError(c, err, "generation %d", c.generation)
	c.checkAll("after Open")
	ctx, cancel := context.WithCancel(context.Background())
	var writing, watching sync.WaitGroup
	for _, w := range c.writers {
		writing.Go(w.run)
	}
	watching.Go(func() { c.scan(ctx) })
	watching.Go(func() { c.watchSpace(ctx) })
	var left *vfs.Mem
	if random.IntN(2) == 0 {
		watching.Go(func() { left = c.losePower(ctx, random) })
	}
	writing.Wait()
	cancel()
	watching.Wait()
	if c.Failed() {
		c.db.Close()
		return
	}
	c.checkAll("before Close")
	c.checkNothingKept()
	require.NoError(c, c.db.Close())
	if left != nil {
		c.crashes++
		c.fsys, c.lost = left, true
	}
}

// losePower returns the file system as the power fails at some moment.
func (c *churn) losePower(ctx context.Context, random *rand.Rand) *vfs.Mem {
	for range random.IntN(200) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
	for _, w := range c.writers {
		w.least = w.acknowledged.Load()
	}
	left := c.fsys.CrashClone(random.Int64())
	for _, w := range c.writers {
		w.most = w.begun.Load()
	}
	return left
}

// checkAll compares the store with what the writers know, after a loss of power
// with what each may have come to.
func (c *churn) checkAll(when string) {
	require.NoError(c, c.db.CheckTree(), "generation %d, %s", c.generation, when)
	for _, w := range c.writers {
		rows := c.db.ScanPrefix([]byte(w.prefix()))
		var found []row
		for key, value := range rows.All() {
			found = append(found, row{string(key), string(value)})
		}
		require.NoError(c, rows.Err(), "generation %d, %s", c.generation, when)
		difference := ""
		if c.lost {
			difference = w.recoverFrom(found)
		} else {
			difference = differ(w.rows, found)
		}
		require.Empty(c, difference, "generation %d, %s: writer %d", c.generation, when, w.id)
	}
	c.lost = false
}

// checkNothingKept checks that what only read snapshots kept is dropped once they
// are closed.
func (c *churn) checkNothingKept() {
	var kept int64
	for range 2000 {
		if kept = c.db.Metrics().Versions.KeptBytes; kept == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.Errorf("generation %d: %d bytes are kept for read snapshots that are closed", c.generation, kept)
}

// watchSpace looks at the store's files all the time: they take no more than twice what
// its pages need, with the versions that read snapshots keep, and the fixed least.
func (c *churn) watchSpace(ctx context.Context) {
	for ctx.Err() == nil && !c.Failed() {
		m := c.db.Metrics().Space
		if above := m.Bytes - 2*m.Live; above > churnLeast {
			c.Errorf("generation %d: %d bytes above twice what is live: %+v", c.generation, above-churnLeast, m)
		} else {
			c.above = max(c.above, above)
		}
		time.Sleep(time.Millisecond)
	}
}

// scan looks at the whole store again and again: keys ascend, or descend, and
// each value was written to its key.
func (c *churn) scan(ctx context.Context) {
	for n := 0; ctx.Err() == nil && !c.Failed(); n++ {
		it := c.db.Scan(nil, nil)
		move, order := it.Next, 1
		if n%2 == 1 {
			move, order = it.Prev, -1
		}
		last := ""
		for rows := 0; move(); rows++ {
			key := string(it.Key())
			if rows > 0 && strings.Compare(key, last) != order {
				c.Errorf("generation %d: %q follows %q in a scan", c.generation, key, last)
			}
			if value := string(it.Value()); !strings.HasPrefix(value, key+"=") {
				c.Errorf("generation %d: key %q has value %q", c.generation, key, brief(value))
			}
			last = key
		}
		if err := it.Close(); err != nil {
			c.Errorf("generation %d: scan: %v", c.generation, err)
		}
		c.scans.Add(1)
	}
}

// A churner writes to the keys that begin with its prefix, and nobody else does.
// Its n-th write follows from the seed, its number and n.
type churner struct {
	*churn
	id   int
	rows *btree.BTreeG[row]
	n    int64 // writes so far
	held []churnSnapshot

	begun, acknowledged atomic.Int64

	// When the generation began, and the writes that had been acknowledged, and
	// begun, when the power failed in it.
	first       *btree.BTreeG[row]
	firstN      int64
	least, most int64
}

// A churnSnapshot is a read snapshot and the rows that it must see.
type churnSnapshot struct {
	*db.Snapshot
	rows *btree.BTreeG[row]
}

func (w *churner) prefix() string { return fmt.Sprintf("writer %d/", w.id) }

func (w *churner) key(random *rand.Rand) string {
	return fmt.Sprintf("%s%03d", w.prefix(), random.IntN(churnKeys))
}

// run makes the writes of a generation, and reads in between.
func (w *churner) run() {
	w.first, w.firstN = w.rows.Clone(), w.n
	random := rand.New(rand.NewPCG(w.seed+uint64(w.id), uint64(w.n)))
	for range churnOps {
		if w.Failed() {
			break
		}
		ops := w.ops(w.n + 1)
		w.begun.Store(w.n + 1)
		if err := w.write(ops, random); err != nil {
			w.Errorf("generation %d: writer %d: %v", w.generation, w.id, err)
			break
		}
		w.acknowledged.Store(w.n + 1)
		w.n++
		apply(w.rows, ops)
		w.writes.Add(1)
		w.look(random)
	}
	for _, s := range w.held {
		w.compare(s.ScanPrefix([]byte(w.prefix())), s.rows)
		s.Close()
	}
	w.held = nil
}

// ops are the operations of the n-th write: one, or several that are one.
func (w *churner) ops(n int64) []db.Op {
	random := rand.New(rand.NewPCG(w.seed^0x9e3779b97f4a7c15, uint64(w.id)<<32|uint64(n)))
	emptying := n/churnPhase%2 == 1
	count := 1
	if random.IntN(6) == 0 {
		count += random.IntN(30)
	}
	ops := make([]db.Op, 0, count)
	for i := range count {
		key := w.key(random)
		op := db.Op{Kind: db.OpSet, Key: []byte(key)}
		switch p := random.IntN(100); {
		case p == 0 && emptying:
			op.Kind, op.End = db.OpDeleteRange, []byte(w.key(random))
		case p < 8 || emptying && p < 80:
			op.Kind = db.OpDelete
		case p < 90:
			op.Value = fmt.Appendf(nil, "%s=%d.%d%s", key, n, i, strings.Repeat("x", churnSize(random)))
		default:
			op.Kind, op.Value = db.OpMerge, fmt.Appendf(nil, "+%d.%d", n, i)
		}
		ops = append(ops, op)
	}
	return ops
}

// churnSize is the length of a value: short ones, some that fill a leaf, and some
// that have pages of their own.
func churnSize(random *rand.Rand) int {
	switch p := random.IntN(100); {
	case p < 80:
		return random.IntN(50)
	case p < 97:
		return random.IntN(400)
	}
	return random.IntN(4000)
}

// churnMerger appends operands to the value.
func churnMerger(key, base, operand []byte) ([]byte, error) {
	if base == nil {
		base = append(append([]byte{}, key...), '=')
	}
	return append(append([]byte{}, base...), operand...), nil
}

// apply does to rows what ops do to a store.
func apply(rows *btree.BTreeG[row], ops []db.Op) {
	for _, op := range ops {
		key := string(op.Key)
		switch op.Kind {
		case db.OpSet:
			rows.ReplaceOrInsert(row{key, string(op.Value)})
		case db.OpDelete:
			rows.Delete(row{key: key})
		case db.OpMerge:
			var base []byte
			if r, ok := rows.Get(row{key: key}); ok {
				base = []byte(r.value)
			}
			value, _ := churnMerger(op.Key, base, op.Value)
			rows.ReplaceOrInsert(row{key, string(value)})
		case db.OpDeleteRange:
			var gone []row
			rows.AscendRange(row{key: key}, row{key: string(op.End)}, func(r row) bool {
				gone = append(gone, r)
				return true
			})
			for _, r := range gone {
				rows.Delete(r)
			}
		}
	}
}

// write makes ops one write.
func (w *churner) write(ops []db.Op, random *rand.Rand) error {
	if len(ops) == 1 && random.IntN(4) > 0 {
		return single(w.db, ops[0])
	}
	if random.IntN(2) == 0 {
		b := w.db.NewBatch()
		for _, op := range ops {
			if err := single(b, op); err != nil {
				return err
			}
		}
		return b.Commit()
	}
	return w.db.Update(func(tx *db.Tx) error {
		for range random.IntN(3) {
			key := w.key(random)
			value, err := tx.Get([]byte(key))
			w.expect(key, value, err, w.rows)
		}
		for _, op := range ops {
			if err := single(tx, op); err != nil {
				return err
			}
		}
		return nil
	})
}

// A rowWriter is a DB, a Batch or a Tx.
type rowWriter interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	DeleteRange(lo, hi []byte) error
	Merge(key, operand []byte) error
}

// single makes one write.
func single(to rowWriter, op db.Op) error {
	switch op.Kind {
	case db.OpSet:
		return to.Set(op.Key, op.Value)
	case db.OpDelete:
		return to.Delete(op.Key)
	case db.OpMerge:
		return to.Merge(op.Key, op.Value)
	}
	return to.DeleteRange(op.Key, op.End)
}

// look reads something and compares it with what must be there.
func (w *churner) look(random *rand.Rand) {
	w.reads.Add(1)
	key := w.key(random)
	switch p := random.IntN(100); {
	case p < 50:
		value, err := w.db.Get([]byte(key))
		w.expect(key, value, err, w.rows)
	case p < 60 && len(w.held) > 0:
		s := w.held[random.IntN(len(w.held))]
		value, err := s.Get([]byte(key))
		w.expect(key, value, err, s.rows)
	case p < 62 && len(w.held) > 0:
		s := w.held[random.IntN(len(w.held))]
		w.compare(s.ScanPrefix([]byte(w.prefix())), s.rows)
	case p < 64:
		w.compare(w.db.ScanPrefix([]byte(w.prefix())), w.rows)
	case p < 66 && len(w.held) < churnHeld:
		w.snapshots.Add(1)
		w.held = append(w.held, churnSnapshot{w.db.Snapshot(), w.rows.Clone()})
	case p < 68 && len(w.held) > 0:
		w.held[0].Close()
		w.held = w.held[1:]
	}
}

// expect checks what a Get returned.
func (w *churner) expect(key string, value []byte, err error, rows *btree.BTreeG[row]) {
	r, ok := rows.Get(row{key: key})
	switch {
	case errors.Is(err, db.ErrNotFound) && !ok, err == nil && ok && r.value == string(value):
	default:
		w.Errorf("generation %d: writer %d: %q has %q, %v and should have %q, %t", w.generation, w.id, key, brief(string(value)), err, brief(r.value), ok)
	}
}

// compare checks what an iterator shows, forwards or backwards, and closes it.
func (w *churner) compare(it *db.Iterator, rows *btree.BTreeG[row]) {
	var found []row
	for key, value := range it.All() {
		found = append(found, row{string(key), string(value)})
	}
	if err := it.Err(); err != nil {
		w.Errorf("generation %d: writer %d: %v", w.generation, w.id, err)
	}
	if d := differ(rows, found); d != "" {
		w.Errorf("generation %d: writer %d: %s", w.generation, w.id, d)
	}
}

// recoverFrom takes over what a loss of power left: the rows after one of the writes
// that the writer may have come to. It returns a difference if found are those of
// none.
func (w *churner) recoverFrom(found []row) (difference string) {
	rows := w.first.Clone()
	for n := w.firstN; ; n++ {
		if n >= w.least {
			if difference = differ(rows, found); difference == "" {
				w.rows, w.n = rows, n
				w.begun.Store(n)
				w.acknowledged.Store(n)
				return ""
			}
		}
		if n >= w.most {
			return fmt.Sprintf("not what writes %d to %d leave: %s", w.least, w.most, difference)
		}
		apply(rows, w.ops(n+1))
	}
}

// differ says where found is not what rows has.
func differ(rows *btree.BTreeG[row], found []row) (difference string) {
	i := 0
	rows.Ascend(func(r row) bool {
		switch {
		case i == len(found):
			difference = fmt.Sprintf("%q is missing at the end", r.key)
		case found[i] != r:
			difference = fmt.Sprintf("%q = %q stands where %q = %q should", found[i].key, brief(found[i].value), r.key, brief(r.value))
		}
		i++
		return difference == ""
	})
	if difference == "" && i < len(found) {
		difference = fmt.Sprintf("%q should not be there", found[i].key)
	}
	return difference
}

// brief shortens what is long to what tells it from others.
func brief(s string) string {
	if len(s) > 40 {
		return fmt.Sprintf("%s... (%d bytes, %08x)", s[:40], len(s), crc32.ChecksumIEEE([]byte(s)))
	}
	return s
}
