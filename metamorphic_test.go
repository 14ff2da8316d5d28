package db_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// TestMetamorphic does one list of operations in stores that are opened with
// different options, closed and opened again with others, and lose power where
// all is durable. What the operations answer, errors included, is the same
// everywhere. The first store, in memory and with pages of the usual size, is the
// reference: a mistake that all make alike is for the other tests to find.
//
// PULK_METAMORPHIC says how long it runs, PULK_SEED with which seed it begins.
func TestMetamorphic(t *testing.T) {
	duration := 6 * time.Second
	if d, err := time.ParseDuration(os.Getenv("PULK_METAMORPHIC")); err == nil {
		duration = d
	}
	seed := rand.Uint64()
	if s, err := strconv.ParseUint(os.Getenv("PULK_SEED"), 10, 64); err == nil {
		seed = s
	}
	lists, histories, operations := 0, 0, 0
	for deadline := time.Now().Add(duration); time.Now().Before(deadline); seed++ {
		want := runMetamorphic(t, seed, 0)
		lists, histories, operations = lists+1, histories+1, operations+len(want)
		for variant := 1; variant < metamorphicVariants; variant++ {
			got := runMetamorphic(t, seed, variant)
			histories, operations = histories+1, operations+len(got)
			for i := range want {
				if i >= len(got) || got[i] != want[i] {
					t.Fatalf("seed %d, variant %d: operation %d answered\n  %s\nand in the reference\n  %s", seed, variant, i, got[min(i, len(got)-1)], want[i])
				}
			}
		}
	}
	t.Logf("%d lists, %d histories compared, %d operations", lists, histories, operations)
	crashtest.ReportCount(t, histories, "histories")
}

const (
	metamorphicVariants = 6
	metamorphicOps      = 700
	metamorphicKeys     = 300
	metamorphicHandles  = 4 // of each kind that are open at most
)

// Lists that showed mistakes: a deletion of an empty range was taken for a write, and
// a scan back to the empty key for one of everything.
func TestMetamorphicSeeds(t *testing.T) {
	for _, seed := range []uint64{16106513474620326867, 2686295017110840296} {
		runMetamorphic(t, seed, 0)
	}
}

// A metamorph does a list of operations. What it does follows from choices alone;
// what it does it with, from variation.
type metamorph struct {
	*testing.T
	seed      uint64
	choices   *rand.Rand
	variation *rand.Rand
	variant   int
	fsys      *vfs.Mem
	db        *db.DB
	snapshots []*db.Snapshot
	iterators []*db.Iterator
	txs       []*metamorphicTx
	writes    []metamorphicWrite // that were committed
	history   []string
}

// A metamorphicTx is a transaction and what it has read.
type metamorphicTx struct {
	*db.Tx
	writable bool
	begun    int                // writes committed before it
	reads    [][2][]byte        // bounds of what it has read, own writes included
	sure     int                // so many of reads came before its first write
	writes   []metamorphicWrite // its own
}

// A metamorphicWrite is the bounds of what was written; a nil hi is an open end.
type metamorphicWrite struct {
	lo, hi []byte
	set    bool // lo alone got a value or an operand
}

func (w metamorphicWrite) meets(r [2][]byte) bool {
	return (w.hi == nil || bytes.Compare(r[0], w.hi) < 0) && (r[1] == nil || bytes.Compare(w.lo, r[1]) < 0)
}

// conflict says what Commit must answer. Of a key that came and went since the
// transaction began, and of a deletion that found nothing, the store may have kept
// a trace or not, so that it may answer either: then known is false.
func (tx *metamorphicTx) conflict(m *metamorph) (conflict, known bool) {
	if len(tx.writes) == 0 {
		return false, true
	}
	known = true
	for _, w := range m.writes[tx.begun:] {
		for i, r := range tx.reads {
			if !w.meets(r) {
				continue
			}
			known = false
			if !w.set || i >= tx.sure {
				continue
			}
			if present, err := m.db.Has(w.lo); err != nil || present {
				return true, true
			}
		}
	}
	return false, known
}

func (tx *metamorphicTx) noteRead(lo, hi []byte) {
	tx.reads = append(tx.reads, [2][]byte{lo, hi})
	if len(tx.writes) == 0 {
		tx.sure = len(tx.reads)
	}
}

func runMetamorphic(t *testing.T, seed uint64, variant int) []string {
	m := &metamorph{
		T:         t,
		seed:      seed,
		choices:   rand.New(rand.NewPCG(seed, 0)),
		variation: rand.New(rand.NewPCG(seed, uint64(variant))),
		variant:   variant,
		fsys:      vfs.NewMem(),
	}
	m.open()
	for range metamorphicOps {
		m.step()
	}
	m.note("end", m.rows(m.db.Scan(nil, nil), true))
	m.closeHandles()
	require.NoError(t, m.db.CheckTree(), "seed %d, variant %d", seed, variant)
	require.NoError(t, m.db.Close())
	return m.history
}

// open opens the store with options of the variant.
func (m *metamorph) open() {
	o := db.Options{Logger: quiet().Logger, Merger: churnMerger, InMemory: m.variant == 0}
	opts := &o
	if m.variant > 0 {
		o.Durability = []db.Durability{db.DurabilitySync, db.DurabilityPeriodic, db.DurabilityNone}[m.variation.IntN(3)]
		o.Compression = db.Compression(m.variation.IntN(4))
		o.CacheSize = []int64{128 << 10, 256 << 10, 8 << 20}[m.variation.IntN(3)]
		opts = o.On(m.fsys)
		if m.variant > 1 {
			opts = opts.Tiny()
		}
		if m.variation.IntN(2) == 0 {
			opts = opts.Folding(1 + m.variation.IntN(30))
		}
	}
	var err error
	m.db, err = db.Open("store", opts)
	require.NoError(m, err, "variant %d", m.variant)
}

// note adds to the history.
func (m *metamorph) note(what string, answer any) {
	m.history = append(m.history, fmt.Sprintf("%s: %v", what, answer))
}

// outcome is how an error is noted: by what errors.Is finds.
func outcome(err error) string {
	for _, known := range []error{db.ErrNotFound, db.ErrConflict, db.ErrTxDone, db.ErrReadOnly, db.ErrClosed} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

func (m *metamorph) key() []byte {
	n := m.choices.IntN(metamorphicKeys)
	switch {
	case n == 0:
		return []byte{}
	case n < 10:
		return []byte(strings.Repeat("\xff\x00", n))
	case n < 20:
		return []byte(strings.Repeat("long", 50*n))
	}
	return fmt.Appendf(nil, "key %03d", n)
}

func (m *metamorph) value() []byte {
	return fmt.Appendf(nil, "%d%s", m.choices.IntN(1000), strings.Repeat("v", churnSize(m.choices)))
}

// bounds are those of a range, each open now and then.
func (m *metamorph) bounds() (lo, hi []byte) {
	if m.choices.IntN(4) > 0 {
		lo = m.key()
	}
	if m.choices.IntN(4) > 0 {
		hi = m.key()
	}
	return lo, hi
}

// step does one operation.
func (m *metamorph) step() {
	switch p := m.choices.IntN(100); {
	case p < 40:
		if w, ok := m.write("DB", m.db); ok {
			m.writes = append(m.writes, w)
		}
	case p < 50:
		m.batch()
	case p < 60:
		m.read("DB", m.db)
	case p < 64:
		m.compareAndSwap()
	case p < 76:
		m.handles()
	case p < 84 && len(m.snapshots) > 0:
		m.read("snapshot", m.snapshots[m.choices.IntN(len(m.snapshots))])
	case p < 90 && len(m.iterators) > 0:
		m.move(m.iterators[m.choices.IntN(len(m.iterators))])
	case p < 98 && len(m.txs) > 0:
		m.transact()
	case p == 99:
		m.restart()
	}
}

// write makes one write and returns what it writes to.
func (m *metamorph) write(name string, to rowWriter) (w metamorphicWrite, ok bool) {
	op := db.Op{Kind: db.OpSet, Key: m.key()}
	switch p := m.choices.IntN(100); {
	case p < 55:
		op.Value = m.value()
	case p < 80:
		op.Kind = db.OpDelete
	case p < 95:
		op.Kind, op.Value = db.OpMerge, []byte("+")
	default:
		op.Kind, op.End = db.OpDeleteRange, m.key()
	}
	err := single(to, op)
	m.note(fmt.Sprintf("%s %v %q %q", name, op.Kind, brief(string(op.Key)), brief(string(op.End))), outcome(err))
	w = metamorphicWrite{lo: op.Key, hi: after(op.Key), set: op.Kind == db.OpSet || op.Kind == db.OpMerge}
	if op.Kind == db.OpDeleteRange {
		w.hi = op.End
	}
	return w, err == nil
}

// after is the key that follows key.
func after(key []byte) []byte { return append(append([]byte{}, key...), 0) }

// batch commits a batch, twice now and then.
func (m *metamorph) batch() {
	b := m.db.NewBatch()
	for range m.choices.IntN(60) {
		if w, ok := m.write("batch", b); ok {
			m.writes = append(m.writes, w)
		}
	}
	m.note("batch", fmt.Sprint(b.Len(), b.Size()))
	for range 1 + m.choices.IntN(2) {
		m.note("Commit", outcome(b.Commit()))
	}
}

// A rowReader is a DB, a Snapshot or a Tx.
type rowReader interface {
	Get(key []byte) ([]byte, error)
	Has(key []byte) (bool, error)
	Scan(lo, hi []byte) *db.Iterator
	ScanPrefix(prefix []byte) *db.Iterator
}

// read reads something and returns its bounds.
func (m *metamorph) read(name string, from rowReader) (lo, hi []byte) {
	switch p := m.choices.IntN(10); {
	case p < 5:
		lo = m.key()
		hi = after(lo)
		value, err := from.Get(lo)
		m.note(name+" Get", fmt.Sprintf("%q %s", brief(string(value)), outcome(err)))
	case p < 7:
		lo = m.key()
		hi = after(lo)
		found, err := from.Has(lo)
		m.note(name+" Has", fmt.Sprint(found, outcome(err)))
	case p < 9:
		lo, hi = m.bounds()
		m.note(name+" Scan", m.rows(from.Scan(lo, hi), m.choices.IntN(2) == 0))
	default:
		lo = m.key()
		lo = lo[:min(len(lo), 6)]
		if n := len(lo); n > 0 { // no key ends in 0xff
			hi = append(append([]byte{}, lo[:n-1]...), lo[n-1]+1)
		}
		m.note(name+" ScanPrefix", m.rows(from.ScanPrefix(lo), m.choices.IntN(2) == 0))
	}
	return lo, hi
}

// rows reads an iterator to its end, or to its start, and closes it.
func (m *metamorph) rows(it *db.Iterator, forwards bool) string {
	var b strings.Builder
	all := it.All
	if !forwards {
		all = it.Backward
	}
	for key, value := range all() {
		fmt.Fprintf(&b, "%q=%q ", brief(string(key)), brief(string(value)))
	}
	return b.String() + outcome(it.Err())
}

func (m *metamorph) compareAndSwap() {
	key := m.key()
	old, err := m.db.Get(key)
	if err != nil || m.choices.IntN(4) == 0 {
		old = nil
	}
	var new []byte
	if m.choices.IntN(3) > 0 {
		new = m.value()
	}
	swapped, current, err := m.db.CompareAndSwap(key, old, new)
	if swapped {
		// Nothing was put there where new is nil, nor perhaps written.
		m.writes = append(m.writes, metamorphicWrite{lo: key, hi: after(key), set: new != nil})
	}
	m.note("CompareAndSwap", fmt.Sprintf("%t %q %s", swapped, brief(string(current)), outcome(err)))
}

// handles opens or closes a snapshot, an iterator or a transaction.
func (m *metamorph) handles() {
	switch p := m.choices.IntN(6); {
	case p == 0 && len(m.snapshots) < metamorphicHandles:
		m.snapshots = append(m.snapshots, m.db.Snapshot())
	case p == 1 && len(m.snapshots) > 0:
		m.note("snapshot Close", outcome(m.snapshots[0].Close()))
		m.snapshots = m.snapshots[1:]
	case p == 2 && len(m.iterators) < metamorphicHandles:
		m.iterators = append(m.iterators, m.db.Scan(m.bounds()))
	case p == 3 && len(m.iterators) > 0:
		m.note("iterator Close", outcome(m.iterators[0].Close()))
		m.iterators = m.iterators[1:]
	case p == 4 && len(m.txs) < metamorphicHandles:
		writable := m.choices.IntN(4) > 0
		tx, err := m.db.Begin(writable)
		m.note("Begin", outcome(err))
		m.txs = append(m.txs, &metamorphicTx{Tx: tx, writable: writable, begun: len(m.writes)})
	}
}

// move moves an iterator.
func (m *metamorph) move(it *db.Iterator) {
	ok, name := false, ""
	switch m.choices.IntN(8) {
	case 0:
		ok, name = it.First(), "First"
	case 1:
		ok, name = it.Last(), "Last"
	case 2:
		ok, name = it.SeekGE(m.key()), "SeekGE"
	case 3:
		ok, name = it.SeekLT(m.key()), "SeekLT"
	case 4, 5:
		for range 1 + m.choices.IntN(20) {
			ok, name = it.Next(), "Next"
		}
	default:
		for range 1 + m.choices.IntN(20) {
			ok, name = it.Prev(), "Prev"
		}
	}
	m.note("iterator "+name, fmt.Sprintf("%t %q %q %s", ok, brief(string(it.Key())), brief(string(it.Value())), outcome(it.Err())))
}

// transact reads or writes in a transaction, or finishes it.
func (m *metamorph) transact() {
	i := m.choices.IntN(len(m.txs))
	tx := m.txs[i]
	switch p := m.choices.IntN(10); {
	case p < 4:
		tx.noteRead(m.read("tx", tx))
	case p < 8:
		// To delete an empty range is to write nothing, and who writes nothing meets no
		// conflict.
		if w, ok := m.write("tx", tx); ok && (w.hi == nil || bytes.Compare(w.lo, w.hi) < 0) {
			tx.writes = append(tx.writes, w)
		}
	default:
		m.txs = append(m.txs[:i], m.txs[i+1:]...)
		conflict, known := tx.conflict(m)
		if p == 8 && known {
			m.commit(tx, conflict)
		} else {
			m.note("tx Rollback", outcome(tx.Rollback()))
		}
	}
}

// commit checks the answer in the reference too.
func (m *metamorph) commit(tx *metamorphicTx, conflict bool) {
	err := tx.Commit()
	m.note("tx Commit", outcome(err))
	if conflict {
		require.ErrorIs(m, err, db.ErrConflict, "seed %d, variant %d, operation %d", m.seed, m.variant, len(m.history))
		return
	}
	require.NoError(m, err, "seed %d, variant %d, operation %d", m.seed, m.variant, len(m.history))
	m.writes = append(m.writes, tx.writes...)
}

// restart closes the store and opens it with other options, or takes what a loss
// of power leaves after a Sync.
func (m *metamorph) restart() {
	m.closeHandles()
	if m.variant == 0 {
		return
	}
	require.NoError(m, m.db.Sync())
	left := m.fsys.CrashClone(m.variation.Int64())
	require.NoError(m, m.db.Close())
	if m.variation.IntN(2) == 0 {
		m.fsys = left
	}
	m.open()
}

func (m *metamorph) closeHandles() {
	for _, s := range m.snapshots {
		m.note("snapshot Close", outcome(s.Close()))
	}
	for _, it := range m.iterators {
		m.note("iterator Close", outcome(it.Close()))
	}
	for _, tx := range m.txs {
		m.note("tx Rollback", outcome(tx.Rollback()))
	}
	m.snapshots, m.iterators, m.txs = nil, nil, nil
}
