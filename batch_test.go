package db_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// replay returns the writes of b as "set a=1, delete b".
func replay(b *db.Batch) string {
	var s []string
	for op := range b.All() {
		switch op.Kind {
		case db.OpSet, db.OpMerge:
			s = append(s, fmt.Sprintf("%v %s=%s", op.Kind, op.Key, op.Value))
		case db.OpDelete:
			s = append(s, fmt.Sprintf("%v %s", op.Kind, op.Key))
		case db.OpDeleteRange:
			s = append(s, fmt.Sprintf("%v %q-%q", op.Kind, op.Key, op.End))
		}
	}
	return strings.Join(s, ", ")
}

func TestBatch(t *testing.T) {
	d := openMemory(t)
	fill(t, d, "a", "b")
	b := d.NewBatch()
	require.Zero(t, b.Len())
	require.Zero(t, b.Size())

	require.NoError(t, b.Set([]byte("c"), []byte("1")))
	require.NoError(t, b.Delete([]byte("a")))
	require.NoError(t, b.Set([]byte("b"), []byte("22")))
	require.Equal(t, 3, b.Len())
	require.Equal(t, 6, b.Size())
	require.Equal(t, "a=A b=B", rows(d.Scan(nil, nil)), "nothing shows before Commit")

	require.NoError(t, b.Commit())
	require.Equal(t, "b=22 c=1", rows(d.Scan(nil, nil)))
	require.Equal(t, "set c=1, delete a, set b=22", replay(b), "All keeps the order of the calls")
}

func TestBatchLastWriteCounts(t *testing.T) {
	d := openMemory(t)
	b := d.NewBatch()
	require.NoError(t, b.Set([]byte("a"), []byte("1")))
	require.NoError(t, b.Set([]byte("a"), []byte("2")))
	require.NoError(t, b.Set([]byte("b"), []byte("1")))
	require.NoError(t, b.Delete([]byte("b")))
	require.NoError(t, b.Delete([]byte("c")))
	require.NoError(t, b.Set([]byte("c"), []byte{}))
	require.NoError(t, b.Set(nil, nil))
	require.NoError(t, b.Commit())
	require.Equal(t, "= a=2 c=", rows(d.Scan(nil, nil)))
	require.Equal(t, 7, b.Len())
	require.Equal(t, "set a=1, set a=2, set b=1, delete b, delete c, set c=, set =", replay(b))
}

func TestBatchCommitAgain(t *testing.T) {
	d := openMemory(t)
	b := d.NewBatch()
	require.NoError(t, b.Set([]byte("a"), []byte("1")))
	require.NoError(t, b.Commit())
	require.NoError(t, d.Delete([]byte("a")))
	require.NoError(t, b.Set([]byte("b"), []byte("2")))
	require.NoError(t, b.Commit())
	require.Equal(t, "a=1 b=2", rows(d.Scan(nil, nil)))
}

func TestBatchReset(t *testing.T) {
	d := openMemory(t)
	b := d.NewBatch()
	require.NoError(t, b.Set([]byte("a"), []byte("1")))
	b.Reset()
	require.Zero(t, b.Len())
	require.Zero(t, b.Size())
	require.Empty(t, replay(b))
	require.NoError(t, b.Commit(), "an empty batch is no error")
	require.Empty(t, rows(d.Scan(nil, nil)))
	require.NoError(t, b.Set([]byte("b"), []byte("2")))
	require.NoError(t, b.Commit())
	require.Equal(t, "b=2", rows(d.Scan(nil, nil)))
}

func TestBatchCopiesArguments(t *testing.T) {
	d := openMemory(t)
	b := d.NewBatch()
	key, value := make([]byte, 8), make([]byte, 8)
	for i := range 1000 {
		copy(key, fmt.Sprintf("key %04d", i))
		copy(value, fmt.Sprintf("val %04d", i))
		require.NoError(t, b.Set(key, value))
	}
	copy(key, "xxxxxxxx")
	copy(value, "xxxxxxxx")
	require.NoError(t, b.Commit())
	i := 0
	for key, value := range d.Scan(nil, nil).All() {
		require.Equal(t, fmt.Sprintf("key %04d", i), string(key))
		require.Equal(t, fmt.Sprintf("val %04d", i), string(value))
		i++
	}
	require.Equal(t, 1000, i)
}

// A batch that is far larger than a page, a record of the log or a buffer goes
// into an empty store, and again into a full one.
func TestBatchLarge(t *testing.T) {
	n := 100_000
	if short() {
		n = 20_000
	}
	dir := t.TempDir()
	d := open(t, dir, &db.Options{Durability: db.DurabilityNone})
	b := d.NewBatch()
	for generation := range 2 {
		b.Reset()
		for i := range n {
			require.NoError(t, b.Set(fmt.Appendf(nil, "key %06d", i), fmt.Appendf(nil, "%0100d", generation)))
		}
		require.NoError(t, b.Commit())
		if generation == 1 {
			require.NoError(t, d.Close())
			d = open(t, dir, nil)
		}
		i := 0
		it := d.Scan(nil, nil)
		for key, value := range it.All() {
			require.Equal(t, fmt.Sprintf("key %06d", i), string(key))
			require.Equal(t, fmt.Sprintf("%0100d", generation), string(value))
			i++
		}
		require.NoError(t, it.Err())
		require.Equal(t, n, i)
	}
}

// A batch over many leaves, with values of every size, is there as a whole
// after a restart too.
func TestBatchOverManyLeaves(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir, db.Options{}.Tiny())
	want := map[string]string{}
	b := d.NewBatch()
	for i := range 2000 {
		key, value := fmt.Sprintf("%05d", i*7919%100000), strings.Repeat("v", i%50)
		if i%500 == 0 {
			value = strings.Repeat("large ", 5000)
		}
		want[key] = value
		require.NoError(t, b.Set([]byte(key), []byte(value)))
	}
	require.NoError(t, b.Commit())
	for range 2 {
		n := 0
		for key, value := range d.Scan(nil, nil).All() {
			require.Equal(t, want[string(key)], string(value))
			n++
		}
		require.Equal(t, len(want), n)
		require.NoError(t, d.Close())
		d = open(t, dir, db.Options{}.Tiny())
	}
}
