package db_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/vfs"
)

// faultWrites is how many writes the tests below make: enough for some
// segments and a page-table snapshot.
const faultWrites = 150

// TestFailedWriteIsFinal fails one write or sync of the log; one of a page-table
// snapshot or of a file that is being prepared, in the background, would not count.
// From then on every write fails, with the cause, although syncs would succeed
// again; reads go on; and the next Open finds all that was acknowledged.
func TestFailedWriteIsFinal(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpSync, vfs.OpWrite} {
		t.Run(kind.String(), func(t *testing.T) {
			var fail, failed atomic.Bool
			mem := vfs.NewMem()
			d, err := db.Open("store", quiet().Tiny().On(vfs.NewFault(mem, func(op vfs.Op) error {
				if op.Kind == kind && strings.HasSuffix(op.Name, ".seg") && fail.Load() && !failed.Swap(true) {
					return syscall.ENOSPC
				}
				return nil
			})))
			require.NoError(t, err)
			fill(t, d, "a", "b")
			fail.Store(true)
			for range 3 {
				err := d.Set([]byte("c"), []byte("C"))
				require.ErrorIs(t, err, db.ErrFailed)
				require.ErrorIs(t, err, syscall.ENOSPC)
			}
			b := d.NewBatch()
			require.NoError(t, b.Set([]byte("d"), []byte("D")))
			require.ErrorIs(t, b.Commit(), db.ErrFailed)
			require.ErrorIs(t, d.Delete([]byte("a")), db.ErrFailed)
			_, _, err = d.CompareAndSwap([]byte("a"), []byte("A"), nil)
			require.ErrorIs(t, err, db.ErrFailed)
			require.ErrorIs(t, d.Sync(), db.ErrFailed)
			value, err := d.Get([]byte("b"))
			require.NoError(t, err)
			require.Equal(t, "B", string(value))
			require.ErrorIs(t, d.Close(), db.ErrFailed)
			require.ErrorIs(t, d.Close(), db.ErrClosed)

			d, err = db.Open("store", quiet().Tiny().On(mem))
			require.NoError(t, err)
			defer d.Close()
			for _, key := range []string{"a", "b"} {
				_, err := d.Get([]byte(key))
				require.NoError(t, err, key)
			}
			fill(t, d, "c")
		})
	}
}

// TestFault fails the i-th file operation, for every i in turn, once as a lone
// error and once with all that follow. No call panics, every error wraps the
// cause, and the next Open finds all that was acknowledged, whole.
func TestFault(t *testing.T) {
	total := int64(0)
	{
		fault := vfs.NewFault(vfs.NewMem(), nil)
		_, err := writeWithFaults(fault)
		require.NoError(t, err)
		total = fault.Count()
	}
	step := max(1, total/400)
	if short() {
		step = max(1, total/60)
	}
	for _, name := range []string{"one fails", "all fail from there on"} {
		t.Run(name, func(t *testing.T) {
			for i := int64(0); i < total; i += step {
				mem := vfs.NewMem()
				var failed vfs.Op
				var hit atomic.Bool
				fault := vfs.NewFault(mem, func(op vfs.Op) error {
					if op.Index == i {
						failed = op
						hit.Store(true)
					}
					if op.Index == i || op.Index > i && name != "one fails" {
						return errInjected
					}
					return nil
				})
				acknowledged, err := writeWithFaults(fault)
				if err != nil {
					require.ErrorIs(t, err, errInjected, "operation %d", i)
				}
				if !hit.Load() {
					continue
				}
				for _, fsys := range []*vfs.Mem{mem.CrashClone(i), mem} {
					d, err := db.Open("store", quiet().Tiny().On(fsys))
					require.NoError(t, err, "after operation %d (%v %s)", i, failed.Kind, failed.Name)
					found := findWrites(t, d)
					matchWrites(t, 0, map[string]string{}, found[0], 0, acknowledged, acknowledged+1)
					require.NoError(t, d.Close())
				}
			}
		})
	}
	t.Logf("%d operations", total)
}

var errInjected = errors.New("injected")

// writeWithFaults opens a store and writes until something fails. It returns
// how many writes were acknowledged and the first error.
func writeWithFaults(fsys vfs.FS) (acknowledged int, err error) {
	d, err := db.Open("store", quiet().Tiny().On(fsys))
	if err != nil {
		return 0, err
	}
	for n := 1; n <= faultWrites; n++ {
		if err = write(d, killOps(0, n)); err != nil {
			break
		}
		acknowledged = n
	}
	if err != nil && errors.Is(err, db.ErrFailed) {
		if again := write(d, killOps(0, acknowledged+1)); !errors.Is(again, db.ErrFailed) {
			return acknowledged, errors.New("a write after a failed one did not fail")
		}
	}
	if closing := d.Close(); err == nil {
		err = closing
	}
	return acknowledged, err
}
