package db_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// oneOf commits both and requires that exactly one got through.
func oneOf(t *testing.T, a, b *db.Tx) {
	t.Helper()
	first, second := a.Commit(), b.Commit()
	require.NoError(t, first)
	require.ErrorIs(t, second, db.ErrConflict)
}

// Two doctors are on call; each leaves if the other stays.
func TestWriteSkew(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "doctor/1", "doctor/2")
	a, b := begin(t, d, true), begin(t, d, true)
	get(t, a, "doctor/2")
	get(t, b, "doctor/1")
	play(t, a, "del doctor/1")
	play(t, b, "del doctor/2")
	oneOf(t, a, b)
	require.Equal(t, "doctor/2=DOCTOR/2", rows(d.Scan(nil, nil)))
}

// Two transactions find an empty prefix and both insert.
func TestPhantom(t *testing.T) {
	for _, backward := range []bool{false, true} {
		d := openMemory(t)
		fill(t, d, "a", "z")
		a, b := begin(t, d, true), begin(t, d, true)
		for i, tx := range []*db.Tx{a, b} {
			it := tx.ScanPrefix([]byte("job/"))
			require.False(t, backward && it.Last() || !backward && it.First())
			require.NoError(t, it.Close())
			require.NoError(t, tx.Set(fmt.Appendf(nil, "job/%d", i), nil))
		}
		oneOf(t, a, b)
		require.Equal(t, "a=A job/0= z=Z", rows(d.Scan(nil, nil)))
	}
}

func TestLostUpdate(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a")
	a, b := begin(t, d, true), begin(t, d, true)
	play(t, a, "set a="+get(t, a, "a")+"1")
	play(t, b, "set a="+get(t, b, "a")+"2")
	oneOf(t, a, b)
	require.Equal(t, "A1", get(t, d, "a"))
}

func TestReadOfAbsentKey(t *testing.T) {
	d := openMemory(t)
	a, b := begin(t, d, true), begin(t, d, true)
	require.Equal(t, "-", get(t, a, "name"))
	require.Equal(t, "-", get(t, b, "name"))
	play(t, a, "set name=a")
	play(t, b, "set name=b")
	oneOf(t, a, b)

	// A key that came and went was not there at any time that matters, or a
	// conflict: both are serializable. What counts is that nothing else is.
	a = begin(t, d, true)
	require.Equal(t, "-", get(t, a, "other"))
	play(t, d, "set other=1")
	play(t, a, "set x=1")
	require.ErrorIs(t, a.Commit(), db.ErrConflict)
}

// A long scan ends in a conflict if something was written behind it or before
// it, a read-only one never, and it sees one moment.
func TestLongScanVersusWriters(t *testing.T) {
	d := open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	const n = 1000
	key := func(i int) []byte { return fmt.Appendf(nil, "key %04d", i) }
	for i := range n {
		require.NoError(t, d.Set(key(i), []byte("100")))
	}
	for _, writable := range []bool{false, true} {
		tx := begin(t, d, writable)
		it := tx.Scan(nil, nil)
		rows, sum := 0, 0
		for it.Next() {
			var v int
			fmt.Sscan(string(it.Value()), &v)
			rows, sum = rows+1, sum+v
			// Money moves from before the scan to behind it.
			b := d.NewBatch()
			require.NoError(t, b.Set(key(rows%n), []byte("0")))
			require.NoError(t, b.Set(key((rows+n/2)%n), []byte("200")))
			require.NoError(t, b.Commit())
		}
		require.NoError(t, it.Close())
		require.Equal(t, n, rows)
		if !writable {
			require.Equal(t, 100*n, sum)
			require.NoError(t, tx.Commit())
			continue
		}
		require.NoError(t, tx.Set([]byte("sum"), fmt.Append(nil, sum)))
		require.ErrorIs(t, tx.Commit(), db.ErrConflict)
	}
}

// What a transaction did not read is no conflict.
func TestNoConflict(t *testing.T) {
	tests := []struct {
		name     string
		read     func(tx *db.Tx)
		write    string // by somebody else
		conflict bool
	}{
		{"nothing read", func(tx *db.Tx) {}, "set a=1, erase -, set own=2", false},
		{"other key", func(tx *db.Tx) { tx.Get([]byte("a")) }, "set b=1, del d", false},
		{"that key", func(tx *db.Tx) { tx.Has([]byte("a")) }, "set a=1", true},
		{"that key, the same value", func(tx *db.Tx) { tx.Has([]byte("a")) }, "set a=A", true},
		{"that key, merged", func(tx *db.Tx) { tx.Get([]byte("a")) }, "merge a=1", true},
		{"that key, in a range", func(tx *db.Tx) { tx.Get([]byte("b")) }, "erase a-c", true},
		{"beside the range", func(tx *db.Tx) { tx.Get([]byte("b")) }, "erase c-", false},
		{"an own value", func(tx *db.Tx) { tx.Set([]byte("a"), nil); tx.Get([]byte("a")) }, "set a=1", false},
		{"blind merge", func(tx *db.Tx) { tx.Merge([]byte("a"), nil) }, "set a=1", false},
		{"merge that was read", func(tx *db.Tx) { tx.Merge([]byte("a"), nil); tx.Get([]byte("a")) }, "set a=1", true},
		{"scan not so far", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.Next(); it.Next() }, "set c=1, set bb=2", false},
		{"scan so far", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.Next(); it.Next() }, "set aa=1", true},
		{"scan to its bound", func(tx *db.Tx) { rows(tx.Scan(nil, []byte("c"))) }, "set bb=1", true},
		{"beyond its bound", func(tx *db.Tx) { rows(tx.Scan(nil, []byte("c"))) }, "set c=1", false},
		{"backwards", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.Prev(); it.Prev() }, "set b=1, set bb=1", false},
		{"backwards, the end", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.Prev() }, "set zz=1", true},
		{"backwards, between", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.Prev(); it.Prev() }, "set cc=1", true},
		{"seek, before it", func(tx *db.Tx) { tx.Scan(nil, nil).SeekGE([]byte("bb")) }, "set b=1, set d=1", false},
		{"seek, the gap", func(tx *db.Tx) { tx.Scan(nil, nil).SeekGE([]byte("bb")) }, "set bbb=1", true},
		{"seek back, the gap", func(tx *db.Tx) { tx.Scan(nil, nil).SeekLT([]byte("cc")) }, "set ca=1", true},
		{"seek back, behind it", func(tx *db.Tx) { tx.Scan(nil, nil).SeekLT([]byte("cc")) }, "set cc=1", false},
		// Below the row with the empty key the read had an open end.
		{"backwards, the empty key", func(tx *db.Tx) {
			tx.Set([]byte{}, nil)
			it := tx.Scan(nil, []byte("a"))
			it.Prev()
			it.Prev()
		}, "set b=1", false},
		{"turned round", func(tx *db.Tx) { it := tx.Scan(nil, nil); it.SeekGE([]byte("c")); it.Prev() }, "set bb=1", true},
		{"empty range", func(tx *db.Tx) { rows(tx.Scan([]byte("b"), []byte("b"))) }, "set b=1", false},
		{"own row in the scan", func(tx *db.Tx) { tx.Set([]byte("b"), nil); rows(tx.Scan(nil, nil)) }, "set b=1", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			d := openMerger(t)
			fill(t, d, "a", "b", "c", "d")
			tx := begin(t, d, true)
			test.read(tx)
			play(t, tx, "set own=1")
			play(t, d, test.write)
			if test.conflict {
				require.ErrorIs(t, tx.Commit(), db.ErrConflict)
				return
			}
			require.NoError(t, tx.Commit())
			require.Equal(t, "1", get(t, d, "own"))
		})
	}
}

// Counters that many transactions increment, without and with a retry by hand.
func TestUpdateConcurrently(t *testing.T) {
	d := open(t, t.TempDir(), db.Options{Durability: db.DurabilityNone}.Tiny())
	const writers, rounds = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range rounds {
				err := d.Update(func(tx *db.Tx) error {
					n := 0
					it := tx.ScanPrefix([]byte("count/"))
					for it.Next() {
						n++
					}
					return tx.Set(fmt.Appendf(nil, "count/%03d", n), fmt.Appendf(nil, "%d/%d", w, i))
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for range d.ScanPrefix([]byte("count/")).All() {
		n++
	}
	require.Equal(t, writers*rounds, n, "each found a number of its own")
}
