package db_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
	"github.com/pulkdb/db/internal/vfs"
)

// The keys of a history. Their names are so long that they fill several leaves.
const serialKeys = 8

// A serialState is the value of each key; absent is "".
type serialState [serialKeys]string

// A step is one call within a transaction, with its answer.
type step struct {
	kind    string // get, scan, set, delete, erase, merge, swap
	key, to int    // a scan and an erase are of [key, to)
	value   string // of set, merge and swap
	old     string // of swap
	swapped bool
	found   string // by get, and by a failed swap
	back    bool   // of scan
	ended   bool   // the scan went on to its end
	rows    []serialRow
}

type serialRow struct {
	key   int
	value string
}

func (s *step) String() string {
	switch s.kind {
	case "get":
		return fmt.Sprintf("get %d = %q", s.key, s.found)
	case "scan":
		return fmt.Sprintf("scan [%d,%d) back %v ended %v = %v", s.key, s.to, s.back, s.ended, s.rows)
	case "erase":
		return fmt.Sprintf("erase [%d,%d)", s.key, s.to)
	case "swap":
		return fmt.Sprintf("swap %d %q for %q: %v, found %q", s.key, s.old, s.value, s.swapped, s.found)
	}
	return fmt.Sprintf("%s %d %q", s.kind, s.key, s.value)
}

// A txn is what one caller did at what must look like one moment: a transaction,
// a snapshot, an iterator, a batch, or a single call.
type txn struct {
	name  string
	steps []step
	// discard: what it wrote nobody else may ever see. It is judged by its reads.
	discard bool
}

func (x *txn) String() string {
	var s []string
	for i := range x.steps {
		s = append(s, x.steps[i].String())
	}
	if x.discard {
		s = append(s, "discarded")
	}
	return x.name + ": " + strings.Join(s, "; ")
}

// apply does the steps on s and reports whether all answers are right.
func (x *txn) apply(s serialState) (serialState, bool) {
	before := s
	for i := range x.steps {
		if !x.steps[i].apply(&s) {
			return before, false
		}
	}
	if x.discard {
		return before, true
	}
	return s, true
}

func (s *step) apply(state *serialState) bool {
	switch s.kind {
	case "get":
		return state[s.key] == s.found
	case "scan":
		return s.matches(state)
	case "set":
		state[s.key] = s.value
	case "merge":
		state[s.key] += s.value
	case "delete":
		state[s.key] = ""
	case "erase":
		for i := s.key; i < s.to; i++ {
			state[i] = ""
		}
	case "swap":
		if !s.swapped {
			return state[s.key] != s.old && state[s.key] == s.found
		}
		if state[s.key] != s.old {
			return false
		}
		state[s.key] = s.value
	}
	return true
}

// matches reports whether the scan saw what it had to see.
func (s *step) matches(state *serialState) bool {
	var want []serialRow
	for i := s.key; i < s.to; i++ {
		if state[i] != "" {
			want = append(want, serialRow{i, state[i]})
		}
	}
	if s.back {
		slices.Reverse(want)
	}
	if !s.ended && len(s.rows) <= len(want) {
		want = want[:len(s.rows)]
	}
	return slices.Equal(want, s.rows)
}

// serialModel is a store of which every transaction is one step. Linearizable to
// it means strictly serializable.
func serialModel(initial serialState) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return initial },
		Step: func(state, input, _ any) (bool, any) {
			next, ok := input.(*txn).apply(state.(serialState))
			return ok, next
		},
		DescribeOperation: func(input, _ any) string { return input.(*txn).String() },
	}
}

// concat is a Merger: it puts the operand behind the value.
func concat(_, base, operand []byte) ([]byte, error) {
	return append(bytes.Clone(base), operand...), nil
}

// A walker is what an iterator of any kind can do.
type walker interface {
	First() bool
	Last() bool
	Next() bool
	Prev() bool
	Key() []byte
	Value() []byte
	Err() error
	Close() error
}

// A serial is a store whose histories are checked.
type serial struct {
	t      testing.TB
	opts   *db.Options
	dir    string
	db     *db.DB
	start  time.Time
	seed   uint64
	number int // of the history

	area                       atomic.Int64 // the keys change their place from time to time
	txns, conflicts, rollbacks atomic.Int64
}

func newSerial(t testing.TB) *serial {
	s := &serial{t: t, dir: "store", start: time.Now(), seed: rand.Uint64()}
	t.Logf("seed %d", s.seed)
	s.opts = db.Options{Durability: db.DurabilityNone, Merger: concat}.Tiny().Folding(3).On(vfs.NewMem())
	s.open()
	return s
}

func (s *serial) open() {
	var err error
	s.db, err = db.Open(s.dir, s.opts)
	require.NoError(s.t, err)
}

func (s *serial) close() { require.NoError(s.t, s.db.Close()) }

func (s *serial) now() int64 { return int64(time.Since(s.start)) }

// The tail of a key makes it long; prefixes alone would be cut off in a leaf.
var serialTail = strings.Repeat("x", 60)

func (s *serial) key(i int) []byte {
	return fmt.Appendf(nil, "area %06d/%02d%s", s.area.Load(), i, serialTail)
}

// indexOf returns the index of a key; a filler has none.
func (s *serial) indexOf(key []byte) (int, bool) {
	if !bytes.HasSuffix(key, []byte(serialTail)) {
		return 0, false
	}
	i, err := strconv.Atoi(string(key[len(key)-len(serialTail)-2 : len(key)-len(serialTail)]))
	require.NoError(s.t, err)
	return i, true
}

// filler returns a key that lies between those of a history.
func (s *serial) filler(r *rand.Rand) []byte {
	return fmt.Appendf(nil, "area %06d/%02d%s filler %d", s.area.Load(), r.IntN(serialKeys), serialTail, r.IntN(4))
}

const (
	serialClients = 4
	serialTxns    = 4 // of each client in a history
)

// history runs one history and says whether it is strictly serializable.
func (s *serial) history() bool {
	s.number++
	if s.number%8 == 0 { // other leaves, to be split first
		old := fmt.Appendf(nil, "area %06d/", s.area.Add(1)-1)
		require.NoError(s.t, s.db.DeleteRange(old, append(old[:len(old)-1:len(old)-1], '0')))
	}
	var initial serialState
	for i := range initial {
		value, err := s.db.Get(s.key(i))
		if err != nil {
			require.ErrorIs(s.t, err, db.ErrNotFound)
		}
		initial[i] = string(value)
	}
	var ops [serialClients][]porcupine.Operation
	var wait sync.WaitGroup
	for c := range serialClients {
		k := &serialClient{serial: s, id: c, r: rand.New(rand.NewPCG(s.seed+uint64(s.number), uint64(c)))}
		wait.Go(func() {
			for k.n = range serialTxns {
				k.transact()
			}
			ops[c] = k.ops
		})
	}
	wait.Wait()
	all := slices.Concat(ops[:]...)
	result := porcupine.CheckOperationsTimeout(serialModel(initial), all, 30*time.Second)
	if result == porcupine.Unknown {
		s.t.Logf("history %d: not decided in 30 s", s.number)
	}
	if result == porcupine.Illegal && os.Getenv("PULK_TEST_HISTORY") != "" {
		s.dump(initial, all)
	}
	return result != porcupine.Illegal
}

// dump prints a history.
func (s *serial) dump(initial serialState, ops []porcupine.Operation) {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	s.t.Logf("history %d of seed %d, begun with %q", s.number, s.seed, initial)
	for _, op := range ops {
		s.t.Logf("%9d to %9d us, client %d: %v", op.Call/1000, op.Return/1000, op.ClientId, op.Input)
	}
}

// A serialClient is one goroutine of a history.
type serialClient struct {
	*serial
	id, n int
	r     *rand.Rand
	ops   []porcupine.Operation
	next  int
}

// value returns one that nobody else writes.
func (c *serialClient) value() string {
	c.next++
	return fmt.Sprintf("%d.%d.%d%s,", c.number, c.id, c.next, strings.Repeat("v", c.r.IntN(20)))
}

// pause lets others in.
func (c *serialClient) pause() {
	switch c.r.IntN(16) {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		runtime.Gosched()
	case 8:
		time.Sleep(time.Duration(c.r.IntN(100)) * time.Microsecond)
	}
}

func (c *serialClient) note(x *txn, call, ret int64) {
	c.ops = append(c.ops, porcupine.Operation{ClientId: c.id, Input: x, Call: call, Return: ret})
}

// check fails the test for an error that must not be.
func (c *serialClient) check(err error) bool {
	if err != nil {
		c.t.Errorf("history %d of seed %d: %v", c.number, c.seed, err)
	}
	return err == nil
}

// transact does one transaction of some kind.
func (c *serialClient) transact() {
	switch n := c.r.IntN(20); {
	case n < 11:
		c.tx()
	case n < 13:
		c.single()
	case n < 15:
		c.batch()
	case n < 17:
		c.snapshot()
	case n < 19:
		c.iterator()
	default:
		c.view()
	}
}

func (c *serialClient) span() (lo, hi int) {
	lo = c.r.IntN(serialKeys)
	return lo, lo + 1 + c.r.IntN(serialKeys-lo)
}

// get is a step that reads.
func (c *serialClient) get(x *txn, get func(key []byte) ([]byte, error)) bool {
	k := c.r.IntN(serialKeys)
	value, err := get(c.key(k))
	if errors.Is(err, db.ErrNotFound) {
		err = nil
	}
	x.steps = append(x.steps, step{kind: "get", key: k, found: string(value)})
	return c.check(err)
}

// scan is a step that reads a range, now and then not to its end.
func (c *serialClient) scan(x *txn, lo, hi int, it walker) bool {
	s := step{kind: "scan", key: lo, to: hi, back: c.r.IntN(2) == 0, ended: true}
	limit := serialKeys + 1
	if c.r.IntN(3) == 0 {
		limit = c.r.IntN(3)
	}
	move := it.Next
	if s.back {
		move = it.Prev
	}
	for {
		if len(s.rows) == limit {
			s.ended = false
			break
		}
		if !move() {
			break
		}
		if i, ok := c.indexOf(it.Key()); ok {
			s.rows = append(s.rows, serialRow{i, string(it.Value())})
		}
		if c.r.IntN(3) == 0 {
			c.pause()
		}
	}
	x.steps = append(x.steps, s)
	return c.check(it.Close())
}

// A writer is what transactions and batches have in common.
type writer interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	DeleteRange(lo, hi []byte) error
	Merge(key, operand []byte) error
}

func (c *serialClient) write(x *txn, w writer) bool {
	s := step{key: c.r.IntN(serialKeys), value: c.value()}
	var err error
	switch n := c.r.IntN(12); {
	case n < 6:
		s.kind, err = "set", w.Set(c.key(s.key), []byte(s.value))
	case n < 9:
		s.kind, err = "delete", w.Delete(c.key(s.key))
	case n < 11:
		s.kind, err = "merge", w.Merge(c.key(s.key), []byte(s.value))
	default:
		s.kind = "erase"
		s.key, s.to = c.span()
		err = w.DeleteRange(c.key(s.key), c.key(s.to))
	}
	x.steps = append(x.steps, s)
	return c.check(err)
}

// tx is a writing transaction: reads, then writes, and some of each later.
func (c *serialClient) tx() {
	x := &txn{name: "tx"}
	call := c.now()
	tx, err := c.db.Begin(true)
	begun := c.now()
	if !c.check(err) {
		return
	}
	wrote := false
	for i, n := 0, 2+c.r.IntN(4); i < n; i++ {
		c.pause()
		ok := true
		switch k := c.r.IntN(6); {
		case k < 2:
			ok = c.get(x, tx.Get)
		case k < 4:
			lo, hi := c.span()
			ok = c.scan(x, lo, hi, tx.Scan(c.key(lo), c.key(hi)))
		default:
			wrote = true
			ok = c.write(x, tx)
		}
		if !ok {
			return
		}
	}
	c.pause()
	if c.r.IntN(12) == 0 {
		c.rollbacks.Add(1)
		x.discard = true
		c.check(tx.Rollback())
		c.note(x, call, begun)
		return
	}
	switch err := tx.Commit(); {
	case errors.Is(err, db.ErrConflict):
		c.conflicts.Add(1)
		x.discard = true
	case !c.check(err):
		return
	default:
		c.txns.Add(1)
	}
	if x.discard || !wrote { // it is its moment that counts
		c.note(x, call, begun)
		return
	}
	c.note(x, call, c.now())
}

// single is a call outside any transaction.
func (c *serialClient) single() {
	x := &txn{name: "single"}
	call := c.now()
	switch c.r.IntN(3) {
	case 0:
		if !c.get(x, c.db.Get) {
			return
		}
	case 1:
		if !c.write(x, c.db) {
			return
		}
	default:
		s := step{kind: "swap", key: c.r.IntN(serialKeys), value: c.value()}
		var old []byte
		if c.r.IntN(3) > 0 {
			if value, err := c.db.Get(c.key(s.key)); err == nil {
				old, s.old = value, string(value)
			}
		}
		call = c.now()
		swapped, current, err := c.db.CompareAndSwap(c.key(s.key), old, []byte(s.value))
		s.swapped, s.found = swapped, string(current)
		x.steps = append(x.steps, s)
		if !c.check(err) {
			return
		}
	}
	c.note(x, call, c.now())
}

func (c *serialClient) batch() {
	x, b := &txn{name: "batch"}, c.db.NewBatch()
	for range 2 + c.r.IntN(4) {
		if !c.write(x, b) {
			return
		}
	}
	call := c.now()
	if c.check(b.Commit()) {
		c.note(x, call, c.now())
	}
}

func (c *serialClient) snapshot() {
	x := &txn{name: "snapshot"}
	call := c.now()
	s := c.db.Snapshot()
	taken := c.now()
	for range 2 + c.r.IntN(5) {
		time.Sleep(time.Duration(c.r.IntN(100)) * time.Microsecond)
		ok := true
		if c.r.IntN(2) == 0 {
			ok = c.get(x, s.Get)
		} else {
			lo, hi := c.span()
			ok = c.scan(x, lo, hi, s.Scan(c.key(lo), c.key(hi)))
		}
		if !ok {
			return
		}
	}
	c.check(s.Close())
	c.note(x, call, taken)
}

func (c *serialClient) iterator() {
	x := &txn{name: "iterator"}
	lo, hi := c.span()
	call := c.now()
	it := c.db.Scan(c.key(lo), c.key(hi))
	made := c.now()
	time.Sleep(time.Duration(c.r.IntN(200)) * time.Microsecond)
	if c.scan(x, lo, hi, it) {
		c.note(x, call, made)
	}
}

func (c *serialClient) view() {
	x := &txn{name: "view"}
	call := c.now()
	var begun int64
	err := c.db.View(func(tx *db.Tx) error {
		begun = c.now()
		for range 1 + c.r.IntN(3) {
			c.pause()
			c.get(x, tx.Get)
			lo, hi := c.span()
			c.scan(x, lo, hi, tx.Scan(c.key(lo), c.key(hi)))
		}
		return nil
	})
	if c.check(err) {
		c.note(x, call, begun)
	}
}

// disturb writes elsewhere so much that leaves are evicted, and little between
// the keys of the histories; it also holds snapshots. It returns what ends it.
func (s *serial) disturb() (stop func()) {
	done := make(chan struct{})
	var wait sync.WaitGroup
	r := rand.New(rand.NewPCG(s.seed, uint64(s.number)))
	wait.Go(func() {
		var held *db.Snapshot
		defer func() {
			if held != nil {
				held.Close()
			}
		}()
		value := bytes.Repeat([]byte{'z'}, 300)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-time.After(400 * time.Microsecond):
			}
			err := s.db.Set(fmt.Appendf(nil, "zone %04d", r.IntN(1500)), value[:r.IntN(len(value))])
			if err == nil && i%8 == 0 {
				err = s.db.Set(s.filler(r), value[:r.IntN(60)])
			}
			if err == nil && i%50 == 0 {
				if held != nil {
					err = held.Close()
				}
				held = s.db.Snapshot()
			}
			if err != nil {
				s.t.Errorf("disturbing: %v", err)
				return
			}
		}
	})
	return func() { close(done); wait.Wait() }
}

// delays holds operations up at random in the places made for that. It returns
// what ends it; no store may be open then.
func delays() (stop func()) {
	testhooks.SetYield(func(point string) {
		switch n := rand.Uint32N(256); {
		case n == 0:
			time.Sleep(time.Duration(rand.IntN(60)) * time.Microsecond)
		case n < 40:
			runtime.Gosched()
		}
	})
	return func() { testhooks.SetYield(nil) }
}

const (
	serialStores    = 8  // at work at once, since histories mostly pause
	historiesOfLife = 64 // histories between two openings of a store
)

// run checks histories until f says that it is enough, and returns the number of
// the first that is not serializable, or 0.
func (s *serial) run(enough func(n int) bool) int {
	defer s.close()
	for n := 0; !enough(n) && !s.t.Failed(); {
		stop := s.disturb()
		for range historiesOfLife {
			n++
			ok := s.history()
			if !ok {
				stop()
				return n
			}
			if enough(n) || s.t.Failed() {
				break
			}
		}
		stop()
		s.close()
		s.open()
	}
	return 0
}

// serialLimit says for how long histories are checked. CI does it under the race
// detector, which makes it slow.
func serialLimit(t testing.TB) time.Duration {
	if s := os.Getenv("PULK_SERIAL"); s != "" {
		d, err := time.ParseDuration(s)
		require.NoError(t, err)
		return d
	}
	switch {
	case testing.Short():
		return 3 * time.Second
	case invariant.Debug:
		return 30 * time.Second
	}
	return 10 * time.Second
}

// TestStrictlySerializable runs short histories of transactions, snapshots,
// iterators, batches and single calls on few keys and ranges, and looks for an
// order of each that explains all answers and keeps to the order of the calls in
// time. Leaves are split, folded and evicted, and the store is opened again and
// again.
func TestStrictlySerializable(t *testing.T) {
	defer delays()()
	deadline := time.Now().Add(serialLimit(t))
	stores := make([]*serial, serialStores)
	var wait sync.WaitGroup
	for i := range stores {
		s := newSerial(t)
		stores[i] = s
		wait.Go(func() {
			if bad := s.run(func(int) bool { return time.Now().After(deadline) }); bad != 0 {
				t.Errorf("history %d of seed %d is not strictly serializable; PULK_TEST_HISTORY=1 prints it", bad, s.seed)
			}
		})
	}
	wait.Wait()
	var histories int
	var txns, conflicts, rollbacks int64
	for _, s := range stores {
		histories += s.number
		txns += s.txns.Load()
		conflicts += s.conflicts.Load()
		rollbacks += s.rollbacks.Load()
	}
	t.Logf("%d histories: %d transactions committed, %d in conflict, %d rolled back", histories, txns, conflicts, rollbacks)
	crashtest.ReportCount(t, histories, "histories")
	require.NotZero(t, txns)
	require.NotZero(t, conflicts)
}

// The test above finds each of these faults.
func TestBrokenIsFound(t *testing.T) {
	if !invariant.Debug {
		t.Skip("the switches have an effect in debug builds only: go test -race, or -tags pulkdebug")
	}
	for name, broken := range map[string]*testhooks.Switch{
		"skip range validation": &testhooks.SkipRangeValidation,
		"publish leaf by leaf":  &testhooks.PublishLeafByLeaf,
		"drop needed versions":  &testhooks.DropNeededVersions,
	} {
		t.Run(name, func(t *testing.T) {
			defer delays()()
			broken.Set(true)
			defer broken.Set(false)
			s := newSerial(t)
			bad := s.run(func(n int) bool { return n >= 20_000 })
			require.NotZero(t, bad, "not found in %d histories", s.number)
			t.Logf("found in history %d, after %v", bad, time.Since(s.start).Round(time.Millisecond))
		})
	}
}
