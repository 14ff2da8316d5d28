package db_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
)

// One batch may hold more operands of one key than fit a record of the log, before
// and after other keys, and they apply in order: whole, and after a restart too.
func TestBatchOfManyOperands(t *testing.T) {
	const operands = 20_000
	sum := func(_, base, operand []byte) ([]byte, error) {
		n, last := uint64(0), uint64(0)
		if base != nil {
			n, last = binary.BigEndian.Uint64(base), binary.BigEndian.Uint64(base[8:])
		}
		x := binary.BigEndian.Uint64(operand)
		if x <= last {
			return nil, fmt.Errorf("operand %d after %d", x, last)
		}
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, n+x), x), nil
	}
	dir := t.TempDir()
	opts := func() *db.Options { return db.Options{Merger: sum}.Tiny() }
	d, err := db.Open(dir, opts())
	require.NoError(t, err)
	b := d.NewBatch()
	require.NoError(t, b.Set([]byte("a"), []byte("1")))
	for i := range operands {
		require.NoError(t, b.Merge([]byte("counter"), binary.BigEndian.AppendUint64(nil, uint64(i+1))))
	}
	require.NoError(t, b.Set([]byte("z"), []byte("2")))
	require.NoError(t, b.Commit())
	want := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, operands*(operands+1)/2), operands)
	for range 2 {
		got, err := d.Get([]byte("counter"))
		require.NoError(t, err)
		require.Equal(t, want, got)
		for _, key := range []string{"a", "z"} {
			_, err := d.Get([]byte(key))
			require.NoError(t, err)
		}
		require.NoError(t, d.Close())
		d, err = db.Open(dir, opts())
		require.NoError(t, err)
	}
	require.NoError(t, d.Close())
}
