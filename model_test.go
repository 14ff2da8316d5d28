package db_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/btree"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db"
)

// A row is one key of an oracle.
type row struct{ key, value string }

func newOracle() *btree.BTreeG[row] {
	return btree.NewG(8, func(a, b row) bool { return a.key < b.key })
}

// A model is a store and what must be in it.
type model struct {
	dir    string
	opts   *db.Options
	db     *db.DB
	rows   *btree.BTreeG[row]
	open   []*modelIterator
	batch  *db.Batch
	staged []db.Op // what batch must hold
	ops    int     // calls that read or write a key, moves of iterators included
}

// A modelIterator is an iterator and the rows that it must see.
type modelIterator struct {
	it   *db.Iterator
	rows []row
	at   int // index in rows; -1 off the start, len(rows) off the end
	new  bool
}

// TestModel runs random calls against a store and a sorted map, with closing
// and opening among them. Sizes are tiny, so that all paths run.
func TestModel(t *testing.T) {
	base := t.TempDir()
	stores, ops := 0, 0
	defer func() { t.Logf("%d stores, %d operations", stores, ops) }()
	rapid.Check(t, func(t *rapid.T) {
		stores++
		m := &model{dir: fmt.Sprintf("%s/%d", base, stores), rows: newOracle()}
		m.reopen(t)
		defer func() { m.db.Close(); ops += m.ops }()
		t.Repeat(map[string]func(*rapid.T){
			"set":            m.set,
			"set many":       m.setMany,
			"delete":         m.delete,
			"delete many":    m.deleteMany,
			"get":            m.get,
			"compareAndSwap": m.compareAndSwap,
			"stage":          m.stage,
			"commit":         m.commit,
			"scan":           m.scan,
			"move":           m.move,
			"close iterator": m.closeIterator,
			"compare":        m.compare,
			"sync":           func(t *rapid.T) { require.NoError(t, m.db.Sync()) },
			"reopen":         m.reopen,
		})
		m.reopen(t)
		m.compare(t)
	})
}

// reopen closes the store, if it is open, and opens it with other options.
func (m *model) reopen(t *rapid.T) {
	if m.db != nil {
		require.NoError(t, m.db.Close())
		for _, open := range m.open {
			require.False(t, open.it.Next())
			require.ErrorIs(t, open.it.Close(), db.ErrClosed)
		}
		m.open = nil
	}
	opts := db.Options{
		CacheSize:   rapid.SampledFrom([]int64{128 << 10, 256 << 10, 4 << 20}).Draw(t, "cache size"),
		Durability:  rapid.SampledFrom([]db.Durability{db.DurabilityNone, db.DurabilityPeriodic, db.DurabilityNone}).Draw(t, "durability"),
		Compression: rapid.SampledFrom([]db.Compression{db.CompressionNone, db.CompressionZstd, db.CompressionZstdFast, db.CompressionZstdBetter}).Draw(t, "compression"),
	}
	m.opts = opts.Tiny()
	d, err := db.Open(m.dir, m.opts)
	require.NoError(t, err)
	m.db, m.batch, m.staged = d, d.NewBatch(), nil
}

// drawKey draws a key out of few, so that writes meet: plain ones with a common
// prefix, some of odd bytes, a few long ones.
func drawKey(t *rapid.T) []byte {
	n := rapid.IntRange(0, 999).Draw(t, "key")
	switch {
	case n == 0:
		return []byte{}
	case n < 20:
		return bytes.Repeat([]byte{0xff, 0}, n)
	case n < 40:
		return append(bytes.Repeat([]byte("long"), 60), byte(n))
	case n == 40:
		return bytes.Repeat([]byte("longer"), 400)
	}
	return fmt.Appendf(nil, "key %03d", n)
}

// drawValue draws a value that tells its draws apart: mostly short, now and
// then as large as a node or larger than a page can be.
func drawValue(t *rapid.T) []byte {
	n := rapid.IntRange(0, 1<<20).Draw(t, "value")
	size := 0
	switch n % 64 {
	case 0:
	case 1:
		size = 5000
	case 2, 3:
		size = 400
	default:
		size = n % 40
	}
	return append(bytes.Repeat([]byte("v"), size), fmt.Sprint(n)[:min(size, 1)]...)
}

func (m *model) set(t *rapid.T) {
	m.ops++
	key, value := drawKey(t), drawValue(t)
	require.NoError(t, m.db.Set(key, value))
	m.rows.ReplaceOrInsert(row{string(key), string(value)})
}

func (m *model) setMany(t *rapid.T) {
	from, step := rapid.IntRange(41, 999).Draw(t, "from"), rapid.IntRange(1, 7).Draw(t, "step")
	value := drawValue(t)
	for i := range rapid.IntRange(1, 100).Draw(t, "n") {
		m.ops++
		key := fmt.Sprintf("key %03d", 41+(from+i*step)%959)
		require.NoError(t, m.db.Set([]byte(key), value))
		m.rows.ReplaceOrInsert(row{key, string(value)})
	}
}

func (m *model) delete(t *rapid.T) {
	m.ops++
	key := drawKey(t)
	require.NoError(t, m.db.Delete(key))
	m.rows.Delete(row{key: string(key)})
}

func (m *model) deleteMany(t *rapid.T) {
	from := rapid.IntRange(41, 999).Draw(t, "from")
	for i := range rapid.IntRange(1, 60).Draw(t, "n") {
		m.ops++
		key := fmt.Sprintf("key %03d", from+i)
		require.NoError(t, m.db.Delete([]byte(key)))
		m.rows.Delete(row{key: key})
	}
}

func (m *model) get(t *rapid.T) {
	m.ops++
	key := drawKey(t)
	want, present := m.rows.Get(row{key: string(key)})
	found, err := m.db.Has(key)
	require.NoError(t, err)
	require.Equal(t, present, found)
	value, err := m.db.Get(key)
	if !present {
		require.ErrorIs(t, err, db.ErrNotFound)
		return
	}
	require.NoError(t, err)
	require.Equal(t, want.value, string(value))
}

func (m *model) compareAndSwap(t *rapid.T) {
	m.ops++
	key := drawKey(t)
	want, present := m.rows.Get(row{key: string(key)})
	var old, new []byte
	if present {
		old = []byte(want.value)
	}
	fits := rapid.Bool().Draw(t, "as expected")
	if !fits {
		old = []byte("what never is there")
	}
	if rapid.Bool().Draw(t, "to a value") {
		new = drawValue(t)
	}
	swapped, current, err := m.db.CompareAndSwap(key, old, new)
	require.NoError(t, err)
	require.Equal(t, fits, swapped)
	switch {
	case !swapped && present:
		require.NotNil(t, current)
		require.Equal(t, want.value, string(current))
	case !swapped, swapped:
		require.Nil(t, current)
	}
	if swapped && new != nil {
		m.rows.ReplaceOrInsert(row{string(key), string(new)})
	} else if swapped {
		m.rows.Delete(row{key: string(key)})
	}
}

func (m *model) stage(t *rapid.T) {
	for range rapid.IntRange(1, 30).Draw(t, "n") {
		op := db.Op{Kind: db.OpSet, Key: drawKey(t)}
		if rapid.IntRange(0, 3).Draw(t, "kind") == 0 {
			op.Kind = db.OpDelete
			require.NoError(t, m.batch.Delete(op.Key))
		} else {
			op.Value = drawValue(t)
			require.NoError(t, m.batch.Set(op.Key, op.Value))
		}
		m.staged = append(m.staged, op)
	}
}

func (m *model) commit(t *rapid.T) {
	require.Equal(t, len(m.staged), m.batch.Len())
	require.NoError(t, m.batch.Commit())
	m.ops += len(m.staged)
	for _, op := range m.staged {
		if op.Kind == db.OpSet {
			m.rows.ReplaceOrInsert(row{string(op.Key), string(op.Value)})
		} else {
			m.rows.Delete(row{key: string(op.Key)})
		}
	}
	if rapid.Bool().Draw(t, "reset") {
		m.batch.Reset()
		m.staged = nil
	}
}

func (m *model) scan(t *rapid.T) {
	m.ops++
	if len(m.open) > 5 {
		m.closeIterator(t)
	}
	var lo, hi []byte
	if rapid.Bool().Draw(t, "has lo") {
		lo = drawKey(t)
	}
	if rapid.Bool().Draw(t, "has hi") {
		hi = drawKey(t)
	}
	open := &modelIterator{it: m.db.Scan(lo, hi), at: -1, new: true}
	m.rows.AscendGreaterOrEqual(row{key: string(lo)}, func(r row) bool {
		if hi != nil && r.key >= string(hi) {
			return false
		}
		open.rows = append(open.rows, r)
		return true
	})
	m.open = append(m.open, open)
}

func (m *model) move(t *rapid.T) {
	if len(m.open) == 0 {
		return
	}
	open := rapid.SampledFrom(m.open).Draw(t, "iterator")
	m.ops++
	switch rapid.SampledFrom([]string{"next", "next", "prev", "prev", "first", "last", "ge", "lt"}).Draw(t, "move") {
	case "next":
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			open.check(t, open.it.Next(), min(open.at+1, len(open.rows)))
		}
	case "prev":
		for range rapid.IntRange(1, 50).Draw(t, "n") {
			if open.new {
				open.at = len(open.rows)
			}
			open.check(t, open.it.Prev(), max(open.at-1, -1))
		}
	case "first":
		ok := open.it.First()
		at := 0
		open.check(t, ok, at)
	case "last":
		open.check(t, open.it.Last(), len(open.rows)-1)
	case "ge":
		key := drawKey(t)
		open.check(t, open.it.SeekGE(key), open.find(key))
	case "lt":
		key := drawKey(t)
		open.check(t, open.it.SeekLT(key), open.find(key)-1)
	}
}

// find returns the index of the first row that is not below key.
func (open *modelIterator) find(key []byte) int {
	at, _ := slices.BinarySearchFunc(open.rows, string(key), func(r row, key string) int {
		return bytes.Compare([]byte(r.key), []byte(key))
	})
	return at
}

// check fails unless the iterator, which moved with result ok, stands at.
func (open *modelIterator) check(t *rapid.T, ok bool, at int) {
	open.new, open.at = false, at
	require.NoError(t, open.it.Err())
	require.Equal(t, ok, open.it.Valid())
	if at < 0 || at >= len(open.rows) {
		require.False(t, ok, "at %d of %d rows: %q", at, len(open.rows), open.it.Key())
		require.Nil(t, open.it.Key())
		require.Nil(t, open.it.Value())
		return
	}
	require.True(t, ok, "at %d of %d rows", at, len(open.rows))
	require.Equal(t, open.rows[at].key, string(open.it.Key()))
	require.Equal(t, open.rows[at].value, string(open.it.Value()))
}

func (m *model) closeIterator(t *rapid.T) {
	if len(m.open) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.open)-1).Draw(t, "iterator")
	require.NoError(t, m.open[i].it.Close())
	m.open = slices.Delete(m.open, i, i+1)
}

// compare reads all rows forwards and backwards.
func (m *model) compare(t *rapid.T) {
	var want, got []row
	m.rows.Ascend(func(r row) bool { want = append(want, r); return true })
	it := m.db.Scan(nil, nil)
	for key, value := range it.All() {
		got = append(got, row{string(key), string(value)})
	}
	require.NoError(t, it.Err())
	requireRows(t, want, got)

	got = got[:0]
	it = m.db.Scan(nil, nil)
	for key, value := range it.Backward() {
		got = append(got, row{string(key), string(value)})
	}
	require.NoError(t, it.Err())
	slices.Reverse(want)
	requireRows(t, want, got)
}

// requireRows is Equal with a message that can be read.
func requireRows(t require.TestingT, want, got []row) {
	for i := range min(len(want), len(got)) {
		require.Equal(t, want[i], got[i], "row %d", i)
	}
	require.Equal(t, len(want), len(got), "rows")
}
