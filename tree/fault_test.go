package tree

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

var errInjected = errors.New("injected")

// After the i-th file operation fails, and all after it or it alone, nothing
// panics, reads answer rightly or with an error, and what was acknowledged is
// there when the store is opened again.
func TestFaults(t *testing.T) {
	for _, lasting := range []bool{true, false} {
		for i := int64(0); ; i = i + 1 + i/12 {
			ops, failed := faultRun(t, i, lasting)
			if !failed {
				t.Logf("lasting %v: %d file operations", lasting, ops)
				break
			}
		}
	}
}

// faultRun fails operation i of a run; failed is false if there is none such.
func faultRun(t *testing.T, i int64, lasting bool) (ops int64, failed bool) {
	mem := vfs.NewMem()
	var mu sync.Mutex
	on := true
	fs := vfs.NewFault(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if on && (op.Index == i || lasting && op.Index > i) {
			failed = true
			return fmt.Errorf("%v %s: %w", op.Kind, op.Name, errInjected)
		}
		return nil
	})
	o := tinyOnDisk(fs)
	o.Durability = Sync
	m := &faultModel{tried: map[string][]string{}, acked: map[string]int{}}
	if tr, err := Open(o); err == nil {
		m.load(t, tr)
		_ = tr.Close()
	}
	mu.Lock()
	on = false
	didFail := failed
	mu.Unlock()
	tr, err := Open(tinyOnDisk(mem))
	require.NoError(t, err, "operation %d, lasting %v", i, lasting)
	require.NoError(t, tr.Check(), "operation %d, lasting %v", i, lasting)
	for k := range m.acked {
		got, _ := get(t, tr, k)
		require.True(t, m.allowed(k, got), "operation %d, lasting %v, key %q: %q", i, lasting, k, got)
	}
	require.NoError(t, tr.Close())
	return fs.Count(), didFail
}

// A faultModel knows the values that were written to each key, in order, and the
// last one that was acknowledged.
type faultModel struct {
	tried map[string][]string
	acked map[string]int
}

// allowed reports whether v is no older than what was acknowledged.
func (m *faultModel) allowed(k, v string) bool {
	return slices.Contains(m.tried[k][m.acked[k]:], v)
}

func (m *faultModel) load(t *testing.T, tr *Tree) {
	rng := rand.New(rand.NewPCG(5, 5))
	for n := range 250 {
		k := fmt.Sprintf("%04d", rng.IntN(150))
		v := string(value(fmt.Sprint(n, "."), rng.IntN(80)+5))
		if n%40 == 0 {
			v = string(value(fmt.Sprint(n, "."), 900))
		}
		m.tried[k] = append(m.tried[k], v)
		if err := tr.Set([]byte(k), []byte(v)); err == nil {
			m.acked[k] = len(m.tried[k]) - 1
		}
		got, err := tr.GetTo(nil, []byte(k))
		if _, ok := m.acked[k]; ok && err == nil && !m.allowed(k, string(got)) {
			t.Fatalf("key %q: got %q", k, got)
		}
	}
	it := tr.Scan(nil, nil)
	for it.Next() {
	}
	_ = it.Close()
}

// Operations beside Close finish or fail with ErrClosed.
func TestCloseBesideOperations(t *testing.T) {
	for round := range 20 {
		tr, err := Open(tinyOnDisk(vfs.NewMem()))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					k := fmt.Appendf(nil, "%d-%d", w, i%100)
					err := tr.Set(k, value("v", i%400))
					if err == nil {
						_, err = tr.GetTo(nil, k)
					}
					if err == nil && i%10 == 0 {
						it := tr.Scan(nil, nil)
						for it.Next() {
							_ = it.Value()
						}
						err = it.Close()
					}
					if err == nil && i%7 == 0 {
						err = tr.Apply([]Op{{Key: k, Value: value("b", 300)}, {Key: []byte("a")}})
					}
					if err != nil {
						if !errors.Is(err, ErrClosed) {
							t.Errorf("round %d: %v", round, err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(round) * time.Millisecond)
		require.NoError(t, tr.Close())
		wg.Wait()
	}
}

func TestReadOnly(t *testing.T) {
	fs := vfs.NewMem()
	tr, err := Open(tinyOnDisk(fs))
	require.NoError(t, err)
	for i := range 500 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), value("v", i)))
	}
	require.NoError(t, tr.Close())
	o := tinyOnDisk(fs)
	o.Cache.ReadOnly = true
	tr = openTree(t, o)
	require.NoError(t, tr.Check())
	for i := range 500 {
		got, ok := get(t, tr, fmt.Sprintf("%04d", i))
		require.True(t, ok)
		require.Equal(t, string(value("v", i)), got)
	}
	require.ErrorIs(t, tr.Set([]byte("a"), nil), ErrReadOnly)
	require.ErrorIs(t, tr.Delete([]byte("a")), ErrReadOnly)
	require.ErrorIs(t, tr.Apply([]Op{{Key: []byte("a")}}), ErrReadOnly)
	_, _, err = tr.CompareAndSwap([]byte("a"), nil, nil)
	require.ErrorIs(t, err, ErrReadOnly)
	it := tr.Scan(nil, nil)
	n := 0
	for it.Next() {
		n++
	}
	require.NoError(t, it.Close())
	require.Equal(t, 500, n)
}
