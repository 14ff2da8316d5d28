package db_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

var errOperand = errors.New("operand not understood")

// join is a Merger that puts operands behind each other. "!" deletes, "?" is an
// error, and "panic" panics.
func joinMerger(_, base, operand []byte) ([]byte, error) {
	switch string(operand) {
	case "!":
		return nil, nil
	case "?":
		return nil, errOperand
	case "panic":
		panic("at the operand")
	}
	return append(append([]byte{}, base...), operand...), nil
}

// openMerger opens an empty store in memory with joinMerger.
func openMerger(t testing.TB) *db.DB {
	t.Helper()
	return open(t, "", &db.Options{InMemory: true, Merger: joinMerger})
}

func begin(t testing.TB, d *db.DB, writable bool) *db.Tx {
	t.Helper()
	tx, err := d.Begin(writable)
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback() })
	return tx
}

// A reader is what DB, Snapshot and Tx have in common.
type reader interface {
	Get(key []byte) ([]byte, error)
	GetTo(dst, key []byte) ([]byte, error)
	Has(key []byte) (bool, error)
	Scan(lo, hi []byte) *db.Iterator
	ScanPrefix(prefix []byte) *db.Iterator
}

// A mutator is what DB, Batch and Tx have in common.
type mutator interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	DeleteRange(lo, hi []byte) error
	Merge(key, operand []byte) error
}

// get returns the value of key, or "-", or the error.
func get(t testing.TB, r reader, key string) string {
	t.Helper()
	value, err := r.Get([]byte(key))
	found, hasErr := r.Has([]byte(key))
	switch {
	case errors.Is(err, db.ErrNotFound):
		require.NoError(t, hasErr)
		require.False(t, found)
		return "-"
	case err != nil:
		require.Error(t, hasErr)
		return err.Error()
	}
	require.NoError(t, hasErr)
	require.True(t, found)
	require.NotNil(t, value)
	return string(value)
}

// play applies a script as "set a=1, del b, erase a-c, merge a=x" to w. An
// empty end of a range is open.
func play(t testing.TB, w mutator, script string) {
	t.Helper()
	for step := range strings.SplitSeq(script, ", ") {
		require.NoError(t, playOne(w, step), step)
	}
}

func playOne(w mutator, step string) error {
	verb, rest, _ := strings.Cut(step, " ")
	key, value, _ := strings.Cut(rest, "=")
	switch verb {
	case "set":
		return w.Set([]byte(key), []byte(value))
	case "del":
		return w.Delete([]byte(key))
	case "merge":
		return w.Merge([]byte(key), []byte(value))
	case "erase":
		lo, hi, _ := strings.Cut(rest, "-")
		if hi == "" {
			return w.DeleteRange([]byte(lo), nil)
		}
		return w.DeleteRange([]byte(lo), []byte(hi))
	}
	panic(step)
}

// Each script gives the same whether it is applied call by call, as a batch, or
// in a transaction, which sees it itself before.
func TestWritesInOrder(t *testing.T) {
	const before = "set a=A, set b=B, set c=C, set d=D"
	tests := []struct{ script, want string }{
		{"set a=1, set a=2", "a=2 b=B c=C d=D"},
		{"set a=1, del a", "b=B c=C d=D"},
		{"del a, set a=1", "a=1 b=B c=C d=D"},
		{"set bb=1, erase b-c", "a=A c=C d=D"},
		{"erase b-c, set bb=1", "a=A bb=1 c=C d=D"},
		{"erase b-d, set b=1, erase b-bb, set c=2", "a=A c=2 d=D"},
		{"erase -", ""},
		{"erase c-", "a=A b=B"},
		{"erase c-b, erase b-b", "a=A b=B c=C d=D"},
		{"erase a-b, erase c-d, erase b-c", "d=D"},
		{"merge a=x", "a=Ax b=B c=C d=D"},
		{"merge a=x, merge a=y, merge e=z", "a=Axy b=B c=C d=D e=z"},
		{"set a=1, merge a=x", "a=1x b=B c=C d=D"},
		{"merge a=x, set a=1", "a=1 b=B c=C d=D"},
		{"del a, merge a=x", "a=x b=B c=C d=D"},
		{"merge a=x, del a", "b=B c=C d=D"},
		{"erase -, merge b=x, merge b=y", "b=xy"},
		{"merge b=x, erase -, merge c=y", "c=y"},
		{"merge a=!, merge b=!, merge b=x", "b=x c=C d=D"},
		{"set a=1, merge a=!", "b=B c=C d=D"},
		{"set a=1, merge a=!, merge a=x", "a=x b=B c=C d=D"},
		{"merge e=!", "a=A b=B c=C d=D"},
		{"set a=, merge a=", "a= b=B c=C d=D"},
	}
	for _, test := range tests {
		t.Run(test.script, func(t *testing.T) {
			d := openMerger(t)
			play(t, d, before)
			play(t, d, test.script)
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "call by call")

			d = openMerger(t)
			play(t, d, before)
			b := d.NewBatch()
			play(t, b, test.script)
			require.NoError(t, b.Commit())
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "batch")

			d = openMerger(t)
			play(t, d, before)
			tx := begin(t, d, true)
			play(t, tx, test.script)
			require.Equal(t, test.want, rows(tx.Scan(nil, nil)), "own writes")
			require.Equal(t, "a=A b=B c=C d=D", rows(d.Scan(nil, nil)), "nothing shows before Commit")
			for key := range strings.SplitSeq("a b bb c d e", " ") {
				own := get(t, tx, key)
				require.Contains(t, " "+test.want+" ", map[bool]string{true: " ", false: " " + key + "=" + own + " "}[own == "-"])
			}
			require.NoError(t, tx.Commit())
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "transaction")
		})
	}
}

func TestDeleteRangeBounds(t *testing.T) {
	long := func(s string) []byte { return []byte(strings.Repeat(s, db.MaxKeyBytes)) }
	tests := []struct {
		name   string
		lo, hi []byte
		want   string
	}{
		{"all", nil, nil, ""},
		{"empty lo is the first key", []byte{}, nil, ""},
		{"empty hi is an empty range", nil, []byte{}, "= a=A b=B"},
		{"lo above hi", []byte("b"), []byte("a"), "= a=A b=B"},
		{"lo equals hi", []byte("a"), []byte("a"), "= a=A b=B"},
		{"one key", []byte("a"), []byte("a\x00"), "= b=B"},
		{"hi longer than a key can be", nil, append(long("a"), "bc"...), "b=B"},
		{"lo longer than a key can be", append(long("a"), 0), nil, "= a=A"},
		{"both", append(long("a"), 0), append(long("a"), 1), "= a=A b=B"},
		{"greatest lo", append(long("\xff"), 0), nil, "= a=A b=B"},
		{"greatest hi", nil, append(long("\xff"), 0), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := openMemory(t)
			fill(t, d, "", "a", "b")
			require.NoError(t, d.DeleteRange(test.lo, test.hi))
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "DB")

			fill(t, d, "", "a", "b")
			b := d.NewBatch()
			require.NoError(t, b.DeleteRange(test.lo, test.hi))
			require.Equal(t, 1, b.Len())
			require.Equal(t, len(test.lo)+len(test.hi), b.Size())
			for op := range b.All() {
				require.Equal(t, db.OpDeleteRange, op.Kind)
				require.Equal(t, test.hi == nil, op.End == nil)
			}
			require.NoError(t, b.Commit())
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "Batch")

			fill(t, d, "", "a", "b")
			tx := begin(t, d, true)
			require.NoError(t, tx.DeleteRange(test.lo, test.hi))
			require.Equal(t, test.want, rows(tx.Scan(nil, nil)), "own writes")
			require.NoError(t, tx.Commit())
			require.Equal(t, test.want, rows(d.Scan(nil, nil)), "Tx")
		})
	}
}

func TestMergeWithoutMerger(t *testing.T) {
	d := openMemory(t)
	key := []byte("a")
	require.ErrorIs(t, d.Merge(key, key), db.ErrNoMerger)
	require.ErrorIs(t, d.NewBatch().Merge(key, key), db.ErrNoMerger)
	require.ErrorIs(t, begin(t, d, true).Merge(key, key), db.ErrNoMerger)
	require.ErrorIs(t, begin(t, d, false).Merge(key, key), db.ErrReadOnly)
}

// A Merger that fails harms reads of one key, and loses nothing.
func TestMergerFails(t *testing.T) {
	for _, bad := range []string{"?", "panic"} {
		dir := t.TempDir()
		d := open(t, dir, &db.Options{Merger: joinMerger})
		play(t, d, "set a=A, set b=B, set c=C, merge b=x, merge b="+bad+", merge b=y")
		var failed *db.MergeError
		tx := begin(t, d, true)
		s := d.Snapshot()
		defer s.Close()
		for _, r := range []reader{d, tx, s} {
			require.Equal(t, "A", get(t, r, "a"))
			require.Equal(t, "C", get(t, r, "c"))
			_, err := r.Get([]byte("b"))
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "b", string(failed.Key))
			require.Equal(t, bad == "?", errors.Is(err, errOperand))

			it := r.Scan(nil, nil)
			for _, want := range []string{"a", "b", "c"} {
				require.True(t, it.Next())
				require.Equal(t, want, string(it.Key()))
				require.Equal(t, want == "b", it.Value() == nil)
				require.Equal(t, want != "a", errors.As(it.Err(), &failed), want)
			}
			require.False(t, it.Next())
			require.ErrorAs(t, it.Close(), &failed)
		}
		play(t, tx, "set a=1, merge a="+bad)
		_, err := tx.Get([]byte("a"))
		require.ErrorAs(t, err, &failed, "on an own value")
		require.ErrorAs(t, tx.Commit(), &failed)
		require.Equal(t, "A", get(t, d, "a"), "nothing was written")
		b := d.NewBatch()
		play(t, b, "set a=1, merge a="+bad)
		require.ErrorAs(t, b.Commit(), &failed)

		tx = begin(t, d, true)
		play(t, tx, "set b=good")
		require.Equal(t, "a=A b=good c=C", rows(tx.Scan(nil, nil)), "an own value hides the operands")
		require.NoError(t, tx.Rollback())

		require.NoError(t, s.Close())
		require.NoError(t, d.Close())
		d = open(t, dir, nil)
		_, err = d.Get([]byte("b"))
		require.ErrorIs(t, err, db.ErrNoMerger)
		require.NoError(t, d.Close())
		d = open(t, dir, &db.Options{Merger: func(_, base, operand []byte) ([]byte, error) {
			return append(base, operand...), nil
		}})
		require.Equal(t, "Bx"+bad+"y", get(t, d, "b"))
	}
}

func TestTxSeesOneMoment(t *testing.T) {
	d := openMerger(t)
	fill(t, d, "a", "b")
	for _, writable := range []bool{false, true} {
		tx := begin(t, d, writable)
		play(t, d, "set a=later, del b, set c=new, merge a=x")
		require.Equal(t, "A", get(t, tx, "a"))
		require.Equal(t, "B", get(t, tx, "b"))
		require.Equal(t, "-", get(t, tx, "c"))
		require.Equal(t, "a=A b=B", rows(tx.Scan(nil, nil)))
		require.Equal(t, "b=B", rows(tx.ScanPrefix([]byte("b"))))
		require.NoError(t, tx.Rollback())
		play(t, d, "set a=A, set b=B, del c")
	}
}

func TestTxScanSeesWritesBeforeIt(t *testing.T) {
	d := openMerger(t)
	fill(t, d, "a", "b")
	tx := begin(t, d, true)
	play(t, tx, "set c=1, merge a=x")
	it := tx.Scan(nil, nil)
	require.True(t, it.Next())
	play(t, tx, "set c=2, merge a=y, set aa=1, erase b-c")
	require.Equal(t, "a=Ax b=B c=1", rows(it))
	require.Equal(t, "a=Axy aa=1 c=2", rows(tx.Scan(nil, nil)))
}

func TestTxArgumentsAndResultsAreCopies(t *testing.T) {
	d := openMerger(t)
	tx := begin(t, d, true)
	key, value := []byte("key"), []byte("value")
	require.NoError(t, tx.Set(key, value))
	require.NoError(t, tx.Merge(key, value))
	copy(key, "xxx")
	copy(value, "xxxxx")
	got, err := tx.Get([]byte("key"))
	require.NoError(t, err)
	require.Equal(t, "valuevalue", string(got))
	require.NoError(t, tx.Set([]byte("key"), []byte("own")))
	got, err = tx.Get([]byte("key"))
	require.NoError(t, err)
	copy(got, "yyy")
	require.Equal(t, "own", get(t, tx, "key"))
	dst, err := tx.GetTo([]byte("dst:"), []byte("key"))
	require.NoError(t, err)
	require.Equal(t, "dst:own", string(dst))
	dst, err = tx.GetTo(dst, []byte("absent"))
	require.ErrorIs(t, err, db.ErrNotFound)
	require.Equal(t, "dst:own", string(dst))
	require.NoError(t, tx.Set(nil, nil))
	empty, err := tx.Get([]byte{})
	require.NoError(t, err)
	require.Equal(t, []byte{}, empty)
	require.ErrorIs(t, tx.Set(make([]byte, db.MaxKeyBytes+1), nil), db.ErrTooLarge)
	_, err = tx.Get(make([]byte, db.MaxKeyBytes+1))
	require.ErrorIs(t, err, db.ErrTooLarge)
}

// allCalls are the calls of a finished transaction, or of one in a closed store.
func allCalls(tx *db.Tx) map[string]error {
	key := []byte("a")
	_, get := tx.Get(key)
	_, getTo := tx.GetTo(nil, key)
	_, has := tx.Has(key)
	scan := tx.Scan(nil, nil)
	scan.Next()
	return map[string]error{
		"Get": get, "GetTo": getTo, "Has": has, "Set": tx.Set(key, key), "Delete": tx.Delete(key),
		"DeleteRange": tx.DeleteRange(nil, nil), "Merge": tx.Merge(key, key),
		"Scan": scan.Err(), "ScanPrefix": tx.ScanPrefix(key).Err(),
	}
}

func TestTxDone(t *testing.T) {
	finish := map[string]func(tx *db.Tx) error{"commit": (*db.Tx).Commit, "roll back": (*db.Tx).Rollback}
	for name, finish := range finish {
		for _, writable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, writable %v", name, writable), func(t *testing.T) {
				d := openMerger(t)
				fill(t, d, "a", "b")
				tx := begin(t, d, writable)
				if writable {
					play(t, tx, "set c=1")
				}
				it, ended := tx.Scan(nil, nil), tx.Scan(nil, nil)
				require.True(t, it.Next())
				for ended.Next() {
				}
				require.NoError(t, finish(tx))
				for name, err := range allCalls(tx) {
					require.ErrorIs(t, err, db.ErrTxDone, name)
				}
				require.ErrorIs(t, tx.Commit(), db.ErrTxDone)
				require.NoError(t, tx.Rollback(), "harmless")
				require.False(t, it.Valid())
				require.Nil(t, it.Key())
				require.Nil(t, it.Value())
				require.False(t, it.Next())
				require.ErrorIs(t, it.Err(), db.ErrTxDone)
				require.ErrorIs(t, it.Close(), db.ErrTxDone)
				require.NoError(t, ended.Err(), "it had ended well before")
				require.NoError(t, ended.Close())
				require.Zero(t, d.Metrics().Versions.Open)
			})
		}
	}
}

func TestTxReadOnly(t *testing.T) {
	d := openMerger(t)
	tx := begin(t, d, false)
	for name, err := range allCalls(tx) {
		switch name {
		case "Get", "GetTo":
			require.ErrorIs(t, err, db.ErrNotFound, name)
		case "Has", "Scan", "ScanPrefix":
			require.NoError(t, err, name)
		default:
			require.ErrorIs(t, err, db.ErrReadOnly, name)
		}
	}
	require.NoError(t, tx.Commit())

	dir := t.TempDir()
	w := open(t, dir, nil)
	fill(t, w, "a")
	require.NoError(t, w.Close())
	r := open(t, dir, &db.Options{ReadOnly: true})
	_, err := r.Begin(true)
	require.ErrorIs(t, err, db.ErrReadOnly)
	require.ErrorIs(t, r.Update(func(*db.Tx) error { return nil }), db.ErrReadOnly)
	require.ErrorIs(t, r.DeleteRange(nil, nil), db.ErrReadOnly)
	require.ErrorIs(t, r.Merge(nil, nil), db.ErrReadOnly)
	require.NoError(t, r.View(func(tx *db.Tx) error {
		require.Equal(t, "a=A", rows(tx.Scan(nil, nil)))
		return nil
	}))
	s := r.Snapshot()
	require.Equal(t, "A", get(t, s, "a"))
	require.NoError(t, s.Close())
}

func TestTxInClosedStore(t *testing.T) {
	for _, writable := range []bool{false, true} {
		d := openMerger(t)
		fill(t, d, "a", "b")
		tx, other := begin(t, d, writable), begin(t, d, writable)
		if writable {
			play(t, tx, "set c=1, set d=1")
		}
		it := tx.Scan(nil, nil)
		require.True(t, it.Next())
		require.NoError(t, d.Close())
		for name, err := range allCalls(tx) {
			require.ErrorIs(t, err, db.ErrClosed, name)
		}
		require.False(t, it.Next())
		require.ErrorIs(t, it.Err(), db.ErrClosed)
		require.ErrorIs(t, tx.Commit(), db.ErrClosed)
		require.ErrorIs(t, tx.Commit(), db.ErrTxDone)
		require.ErrorIs(t, other.Rollback(), db.ErrClosed)
		require.NoError(t, other.Rollback())
		_, err := d.Begin(writable)
		require.ErrorIs(t, err, db.ErrClosed)
		nothing := func(*db.Tx) error { return nil }
		require.ErrorIs(t, d.View(nothing), db.ErrClosed)
		require.ErrorIs(t, d.Update(nothing), db.ErrClosed)
		require.ErrorIs(t, d.DeleteRange(nil, nil), db.ErrClosed)
		require.ErrorIs(t, d.Merge(nil, nil), db.ErrClosed)
		require.ErrorIs(t, d.NewBatch().DeleteRange(nil, nil), db.ErrClosed)
		require.ErrorIs(t, d.NewBatch().Merge(nil, nil), db.ErrClosed)
	}
}

func TestTxManaged(t *testing.T) {
	d := openMemory(t)
	managed := []func(func(*db.Tx) error) error{d.View, d.Update}
	for i, run := range managed {
		var leaked *db.Tx
		require.NoError(t, run(func(tx *db.Tx) error {
			leaked = tx
			require.ErrorIs(t, tx.Commit(), db.ErrTxManaged)
			require.ErrorIs(t, tx.Rollback(), db.ErrTxManaged)
			if i == 1 {
				play(t, tx, "set a=1")
			}
			return nil
		}))
		require.ErrorIs(t, leaked.Commit(), db.ErrTxDone)
		require.NoError(t, leaked.Rollback())
		for name, err := range allCalls(leaked) {
			require.ErrorIs(t, err, db.ErrTxDone, name)
		}
	}
	require.Equal(t, "a=1", rows(d.Scan(nil, nil)))
}

func TestUpdateErrorAndPanic(t *testing.T) {
	d := openMemory(t)
	mine := errors.New("mine")
	for name, run := range map[string]func(func(*db.Tx) error) error{"Update": d.Update, "View": d.View} {
		tries := 0
		err := run(func(tx *db.Tx) error {
			tries++
			tx.Set([]byte("a"), nil)
			return fmt.Errorf("no: %w", mine)
		})
		require.ErrorIs(t, err, mine, name)
		require.PanicsWithValue(t, "boom", func() {
			run(func(tx *db.Tx) error {
				tx.Set([]byte("a"), nil)
				panic("boom")
			})
		}, name)
		require.ErrorIs(t, run(func(*db.Tx) error { tries++; return db.ErrConflict }), db.ErrConflict)
		require.Equal(t, 2, tries, "fn's own error is not a reason to try again")
	}
	require.Empty(t, rows(d.Scan(nil, nil)))
	require.Zero(t, d.Metrics().Versions.Open, "nothing is left open")
}

func TestUpdateRetries(t *testing.T) {
	d := openMemory(t)
	tries := 0
	increment := func(tx *db.Tx) error {
		tries++
		get(t, tx, "a")
		if tries <= 3 {
			fill(t, d, "a") // somebody is faster
		}
		return tx.Set([]byte("a"), fmt.Append(nil, tries))
	}
	require.NoError(t, d.Update(increment))
	require.Equal(t, "4", get(t, d, "a"))
	m := d.Metrics().Versions
	require.EqualValues(t, 3, m.Conflicts)
	require.EqualValues(t, 3, m.Retries)

	// A transaction inside that writes what the outer one has read never ends
	// well, and does not hang.
	tries = 0
	err := d.Update(func(tx *db.Tx) error {
		tries++
		get(t, tx, "b")
		require.NoError(t, d.Update(func(inner *db.Tx) error { return inner.Set([]byte("b"), nil) }))
		return tx.Set([]byte("c"), nil)
	})
	require.ErrorIs(t, err, db.ErrConflict)
	require.Equal(t, 100, tries)

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err = d.UpdateContext(ctx, func(tx *db.Tx) error {
		get(t, tx, "b")
		fill(t, d, "b")
		return tx.Set([]byte("c"), nil)
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	never := func(*db.Tx) error { panic("called") }
	require.ErrorIs(t, d.UpdateContext(ctx, never), context.DeadlineExceeded)
	require.ErrorIs(t, d.ViewContext(ctx, never), context.DeadlineExceeded)
}

// Transactions that are open in one goroutine know nothing of each other.
func TestTxNested(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a")
	require.NoError(t, d.Update(func(outer *db.Tx) error {
		play(t, outer, "set b=outer")
		require.NoError(t, d.Update(func(inner *db.Tx) error {
			require.Equal(t, "-", get(t, inner, "b"))
			return inner.Set([]byte("c"), []byte("inner"))
		}))
		require.NoError(t, d.View(func(inner *db.Tx) error {
			require.Equal(t, "a=A c=inner", rows(inner.Scan(nil, nil)))
			return nil
		}))
		require.NoError(t, d.Set([]byte("d"), []byte("direct")))
		require.Equal(t, "A", get(t, outer, "a"))
		return nil
	}))
	require.Equal(t, "a=A b=outer c=inner d=direct", rows(d.Scan(nil, nil)))
}
