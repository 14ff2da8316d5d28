package db_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db"
)

// A sortedRows is the oracle: rows in key order.
type sortedRows map[string]string

func (s sortedRows) keys() []string { return slices.Sorted(maps.Keys(s)) }

// play applies a step of a script, see play.
func (s sortedRows) play(step string) {
	verb, rest, _ := strings.Cut(step, " ")
	key, value, _ := strings.Cut(rest, "=")
	switch verb {
	case "set":
		s[key] = value
	case "del":
		delete(s, key)
	case "merge":
		if value == "!" {
			delete(s, key)
		} else {
			s[key] += value
		}
	case "erase":
		lo, hi, _ := strings.Cut(rest, "-")
		for key := range s {
			if key >= lo && (hi == "" || key < hi) {
				delete(s, key)
			}
		}
	}
}

var (
	modelKey   = rapid.StringMatching(`[a-d]{0,3}`)
	modelValue = rapid.StringMatching(`[x-z]{0,3}`)

	modelStep = rapid.Custom(func(t *rapid.T) string {
		key := modelKey.Draw(t, "key")
		switch rapid.IntRange(0, 9).Draw(t, "verb") {
		case 0, 1, 2:
			return "set " + key + "=" + modelValue.Draw(t, "value")
		case 3, 4:
			return "del " + key
		case 5:
			return "erase " + key + "-" + modelKey.Draw(t, "end")
		case 6:
			return "merge " + key + "=!"
		}
		return "merge " + key + "=" + modelValue.Draw(t, "operand")
	})

	modelMove = rapid.Custom(func(t *rapid.T) string {
		verbs := []string{"next", "next", "next", "prev", "prev", "prev", "first", "last", "ge:", "lt:"}
		verb := rapid.SampledFrom(verbs).Draw(t, "move")
		if strings.HasSuffix(verb, ":") {
			verb += modelKey.Draw(t, "key")
		}
		return verb
	})
)

// drawBounds returns bounds of a scan, of which nil is open, and what they mean to
// the oracle.
func drawBounds(t *rapid.T) (lo, hi []byte, within func(key string) bool) {
	low, high := "", ""
	if rapid.Bool().Draw(t, "bounded") {
		low, high = modelKey.Draw(t, "lo"), modelKey.Draw(t, "hi")
		lo, hi = []byte(low), []byte(high)
	}
	return lo, hi, func(key string) bool { return key >= low && (hi == nil || key < high) }
}

// modelStore has some rows, in several leaves, of which operands are not folded yet.
func modelStore(t *rapid.T) (*db.DB, sortedRows) {
	d, err := db.Open("", db.Options{InMemory: true, Merger: joinMerger}.Tiny())
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	stored := sortedRows{}
	for _, step := range rapid.SliceOfN(modelStep, 0, 40).Draw(t, "stored") {
		require.NoError(t, playOne(d, step))
		stored.play(step)
	}
	return d, stored
}

// Iterators of a transaction against sorted copies taken when they were made,
// while the transaction goes on writing, and others do.
func TestOverlayModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, want := modelStore(t)
		tx, err := d.Begin(true)
		require.NoError(t, err)
		defer tx.Rollback()
		other := rapid.SliceOfN(modelStep, 0, 5)
		for range rapid.IntRange(1, 4).Draw(t, "iterators") {
			for _, step := range rapid.SliceOfN(modelStep, 0, 15).Draw(t, "own") {
				require.NoError(t, playOne(tx, step))
				want.play(step)
			}
			for _, step := range other.Draw(t, "others") {
				require.NoError(t, playOne(d, step))
			}
			lo, hi, within := drawBounds(t)
			it := tx.Scan(lo, hi)
			oracle := &oracleIterator{rows: maps.Clone(want), at: -1, fresh: true}
			for _, key := range oracle.rows.keys() {
				if within(key) {
					oracle.keys = append(oracle.keys, key)
				}
			}
			oracle.lo, oracle.hi = lo, hi
			for i, step := range rapid.SliceOfN(modelMove, 1, 40).Draw(t, "moves") {
				if i%8 == 7 {
					late := modelStep.Draw(t, "late")
					require.NoError(t, playOne(tx, late))
					want.play(late)
				}
				ok := move(it, step)
				require.NoError(t, it.Err())
				require.Equal(t, oracle.move(step), ok, step)
				require.Equal(t, ok, it.Valid())
				if !ok {
					require.Nil(t, it.Key())
					require.Nil(t, it.Value())
					continue
				}
				key := oracle.keys[oracle.at]
				require.Equal(t, key, string(it.Key()), step)
				require.NotNil(t, it.Value())
				require.Equal(t, oracle.rows[key], string(it.Value()), key)
			}
			require.NoError(t, it.Close())
			for _, key := range []string{"", "a", "ab", "b", "ccc", modelKey.Draw(t, "get")} {
				value, err := tx.Get([]byte(key))
				expected, present := want[key]
				require.Equal(t, !present, errors.Is(err, db.ErrNotFound), key)
				require.Equal(t, expected, string(value), key)
			}
		}
	})
}

// An oracleIterator moves over keys as an Iterator is to. at is -1 at the start and
// len(keys) at the end.
type oracleIterator struct {
	rows   sortedRows
	keys   []string
	lo, hi []byte
	at     int
	fresh  bool
}

func (o *oracleIterator) move(step string) bool {
	verb, key, _ := strings.Cut(step, ":")
	fresh := o.fresh
	o.fresh = false
	switch verb {
	case "next":
		o.at = min(o.at+1, len(o.keys))
	case "prev":
		if fresh {
			o.at = len(o.keys)
		}
		o.at = max(o.at-1, -1)
	case "first":
		o.at = 0
	case "last":
		o.at = len(o.keys) - 1
	case "ge":
		o.at, _ = slices.BinarySearch(o.keys, key)
	case "lt":
		o.at, _ = slices.BinarySearch(o.keys, key)
		o.at--
	}
	return o.at >= 0 && o.at < len(o.keys)
}

// A batch comes to what its calls come to one by one, also if it is committed again
// and after a restart.
func TestBatchOrderModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, want := modelStore(t)
		b := d.NewBatch()
		for range rapid.IntRange(1, 3).Draw(t, "commits") {
			for _, step := range rapid.SliceOfN(modelStep, 0, 30).Draw(t, "batch") {
				require.NoError(t, playOne(b, step))
			}
			require.NoError(t, b.Commit())
			again := d.NewBatch()
			for op := range b.All() {
				switch op.Kind {
				case db.OpSet:
					want.play(fmt.Sprintf("set %s=%s", op.Key, op.Value))
					require.NoError(t, again.Set(op.Key, op.Value))
				case db.OpDelete:
					want.play(fmt.Sprintf("del %s", op.Key))
					require.NoError(t, again.Delete(op.Key))
				case db.OpDeleteRange:
					want.play(fmt.Sprintf("erase %s-%s", op.Key, op.End))
					require.NoError(t, again.DeleteRange(op.Key, op.End))
				case db.OpMerge:
					want.play(fmt.Sprintf("merge %s=%s", op.Key, op.Value))
					require.NoError(t, again.Merge(op.Key, op.Value))
				}
			}
			require.Equal(t, b.Len(), again.Len())
			require.Equal(t, b.Size(), again.Size())
			requireModelRows(t, want, d)
			if rapid.Bool().Draw(t, "reset") {
				b.Reset()
			}
		}
	})
}

func requireModelRows(t *rapid.T, want sortedRows, d *db.DB) {
	got := sortedRows{}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		got[string(key)] = string(value)
	}
	require.NoError(t, it.Err())
	require.Equal(t, want, got)
}

// If a transaction commits although somebody wrote in between, it would have read
// the same after that: no read is missed, whichever way it was made.
func TestReadsAreComplete(t *testing.T) {
	commits, conflicts := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		d, _ := modelStore(t)
		tx, err := d.Begin(true)
		require.NoError(t, err)
		defer tx.Rollback()

		type scan struct {
			lo, hi []byte
			moves  []string
		}
		var script []any
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				script = append(script, modelStep.Draw(t, "own"))
			case 1:
				script = append(script, []byte(modelKey.Draw(t, "get")))
			default:
				lo, hi, _ := drawBounds(t)
				script = append(script, scan{lo, hi, rapid.SliceOfN(modelMove, 1, 6).Draw(t, "moves")})
			}
		}
		trace := func(tx *db.Tx) (seen []string) {
			for _, step := range script {
				switch step := step.(type) {
				case string:
					require.NoError(t, playOne(tx, step))
				case []byte:
					value, err := tx.Get(step)
					seen = append(seen, fmt.Sprintf("get %q %v", value, err))
				case scan:
					it := tx.Scan(step.lo, step.hi)
					for _, m := range step.moves {
						seen = append(seen, fmt.Sprintf("%s %v %s=%s", m, move(it, m), it.Key(), it.Value()))
					}
				}
			}
			return seen
		}
		saw := trace(tx)
		for _, step := range rapid.SliceOfN(modelStep, 1, 2).Draw(t, "somebody") {
			require.NoError(t, playOne(d, step))
		}
		after, err := d.Begin(true)
		require.NoError(t, err)
		defer after.Rollback()
		require.NoError(t, tx.Set([]byte("own"), nil))
		if err := tx.Commit(); err != nil {
			require.ErrorIs(t, err, db.ErrConflict)
			conflicts++
			return
		}
		commits++
		require.Equal(t, saw, trace(after))
	})
	require.Positive(t, commits)
	require.Positive(t, conflicts)
}
