package db_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

func openTiny(t *testing.T) *db.DB {
	store, err := db.Open("store", db.Options{}.Tiny().On(vfs.NewMem()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func randomValue(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// A streamed value is read by a reader of the store, of a snapshot and of a
// transaction, each as of its moment.
func TestGetReader(t *testing.T) {
	store := openTiny(t)
	key, first, second := []byte("k"), randomValue(30_000), randomValue(20_001)
	require.NoError(t, store.SetFrom(key, bytes.NewReader(first), int64(len(first))))
	snapshot := store.Snapshot()
	require.NoError(t, store.SetFrom(key, bytes.NewReader(second), int64(len(second))))
	require.NoError(t, store.Set([]byte("small"), []byte("x")))

	read := func(r *db.ValueReader, err error) []byte {
		t.Helper()
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.EqualValues(t, len(got), r.Size())
		require.NoError(t, r.Close())
		return got
	}
	require.True(t, bytes.Equal(second, read(store.GetReader(key))))
	require.Equal(t, "x", string(read(store.GetReader([]byte("small")))))
	late, err := snapshot.GetReader(key)
	require.NoError(t, err)
	require.True(t, bytes.Equal(first, read(snapshot.GetReader(key))))
	require.NoError(t, snapshot.Close())
	require.True(t, bytes.Equal(first, read(late, nil)))
	_, err = snapshot.GetReader(key)
	require.ErrorIs(t, err, db.ErrClosed)

	require.NoError(t, store.View(func(tx *db.Tx) error {
		require.True(t, bytes.Equal(second, read(tx.GetReader(key))))
		return nil
	}))
	require.NoError(t, store.Update(func(tx *db.Tx) error {
		require.NoError(t, tx.Set(key, []byte("own")))
		require.Equal(t, "own", string(read(tx.GetReader(key))))
		require.NoError(t, tx.Delete(key))
		_, err := tx.GetReader(key)
		require.ErrorIs(t, err, db.ErrNotFound)
		return nil
	}))
	for _, absent := range []string{"k", "none"} {
		_, err = store.GetReader([]byte(absent))
		require.ErrorIs(t, err, db.ErrNotFound)
	}
}

// A reader of a transaction counts as a read.
func TestGetReaderConflicts(t *testing.T) {
	store := openTiny(t)
	value := randomValue(10_000)
	require.NoError(t, store.SetFrom([]byte("k"), bytes.NewReader(value), int64(len(value))))
	tx, err := store.Begin(true)
	require.NoError(t, err)
	r, err := tx.GetReader([]byte("k"))
	require.NoError(t, err)
	require.NoError(t, store.SetFrom([]byte("k"), bytes.NewReader(value), int64(len(value)-1)))
	require.NoError(t, tx.Set([]byte("other"), nil))
	require.ErrorIs(t, tx.Commit(), db.ErrConflict)
	require.NoError(t, iotest.TestReader(r, value))
	require.NoError(t, r.Close())
}

func TestSetFromErrors(t *testing.T) {
	store := openTiny(t)
	value := randomValue(9000)
	from := func(r io.Reader, size int64) error { return store.SetFrom([]byte("k"), r, size) }
	require.ErrorIs(t, from(bytes.NewReader(nil), -1), db.ErrTooLarge)
	require.ErrorIs(t, from(bytes.NewReader(nil), db.MaxValueBytes+1), db.ErrTooLarge)
	require.ErrorIs(t, from(bytes.NewReader(value), 9001), io.ErrUnexpectedEOF)
	broken := errors.New("broken")
	require.ErrorIs(t, from(io.MultiReader(bytes.NewReader(value), iotest.ErrReader(broken)), 9001), broken)
	_, err := store.Get([]byte("k"))
	require.ErrorIs(t, err, db.ErrNotFound)
	require.NoError(t, from(bytes.NewReader(value), 9000))
	r, err := store.GetReader([]byte("k"))
	require.NoError(t, err)
	_, err = r.Read(make([]byte, 10))
	require.NoError(t, err)
	require.NoError(t, store.Close())
	_, err = r.Read(make([]byte, 10))
	require.ErrorIs(t, err, db.ErrClosed)
	_, err = r.ReadAt(make([]byte, 10), 0)
	require.ErrorIs(t, err, db.ErrClosed)
	_, err = r.WriteTo(io.Discard)
	require.ErrorIs(t, err, db.ErrClosed)
	require.NoError(t, r.Close())
	require.ErrorIs(t, from(bytes.NewReader(value), 9000), db.ErrClosed)
	_, err = store.GetReader([]byte("k"))
	require.ErrorIs(t, err, db.ErrClosed)
}
