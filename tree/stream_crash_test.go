package tree

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// After a crash at any file operation of a writer of streamed values, each value
// is one that was written whole, none older than what was acknowledged, and no
// page is left that nothing refers to.
func TestStreamCrash(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for i := int64(0); ; i = i + 1 + i/40 {
		if !streamCrash(t, seed, i) {
			t.Logf("%d file operations", i)
			break
		}
	}
}

func streamOptions(fs vfs.FS) Options {
	o := tinyOnDisk(fs)
	o.Durability = Sync
	o.Cache.SnapshotBytes = 8 << 10
	return o
}

// streamCrash crashes at file operation i; it reports whether there was one.
func streamCrash(t *testing.T, seed uint64, i int64) bool {
	mem := vfs.NewMem()
	var mu sync.Mutex
	var crashed *vfs.Mem
	m := &faultModel{tried: map[string][]string{}, acked: map[string]int{}}
	var acked map[string]int
	fs := vfs.NewFault(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Index == i {
			crashed = mem.CrashClone(int64(seed) + i)
			acked = map[string]int{}
			for k, n := range m.acked {
				acked[k] = n
			}
		}
		return nil
	})
	tr, err := Open(streamOptions(fs))
	require.NoError(t, err)
	streamLoad(t, tr, m, &mu)
	require.NoError(t, tr.Close())
	if crashed == nil {
		return false
	}
	at := fmt.Sprintf("seed %d, operation %d", seed, i)
	// The crash may be repeated while it is recovered from.
	if tr, err := Open(streamOptions(crashed)); err == nil {
		again := crashed.CrashClone(int64(seed) - i)
		require.NoError(t, tr.Close())
		crashed = again
	}
	requireRecovered(t, crashed, m, acked, at)
	return true
}

// streamLoad writes, replaces and deletes streamed values and small ones beside.
func streamLoad(t *testing.T, tr *Tree, m *faultModel, mu *sync.Mutex) {
	note := func(k, v string) func(error) bool {
		mu.Lock()
		defer mu.Unlock()
		if m.tried[k] == nil {
			m.tried[k] = []string{""}
		}
		m.tried[k] = append(m.tried[k], v)
		n := len(m.tried[k]) - 1
		return func(err error) bool {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				m.acked[k] = n
			}
			return err == nil
		}
	}
	for round := range 3 {
		for i := range 3 {
			k := fmt.Sprint("key", i)
			v := string(streamed(fmt.Sprint(round, i), 1500+400*i))
			done := note(k, v)
			if !done(setFrom(tr, k, []byte(v))) {
				return
			}
			_ = tr.SetFrom([]byte(k), bytes.NewReader([]byte(v)), int64(len(v)+1)) // too short
			k = fmt.Sprint("small", i)
			if done := note(k, "x"); !done(tr.Set([]byte(k), []byte("x"))) {
				return
			}
		}
		if done := note("key0", ""); !done(tr.Delete([]byte("key0"))) {
			return
		}
	}
}

func requireRecovered(t *testing.T, fs vfs.FS, m *faultModel, acked map[string]int, at string) {
	tr, err := Open(streamOptions(fs))
	require.NoError(t, err, at)
	for k, tried := range m.tried {
		got, _ := get(t, tr, k)
		require.True(t, slices.Contains(tried[acked[k]:], got), "%s: key %q has %d bytes", at, k, len(got))
	}
	require.NoError(t, tr.Check(), at)
	requireNoLeak(t, tr, at)
	require.NoError(t, tr.Close(), at)
}

// When the i-th file operation fails, and all after it or it alone, as on a full
// disk, the same holds of what the next opener finds.
func TestStreamFaults(t *testing.T) {
	for _, lasting := range []bool{true, false} {
		for i := int64(0); ; i = i + 1 + i/15 {
			if !streamFault(t, i, lasting) {
				t.Logf("lasting %v: %d file operations", lasting, i)
				break
			}
		}
	}
}

func streamFault(t *testing.T, i int64, lasting bool) (failed bool) {
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
	m := &faultModel{tried: map[string][]string{}, acked: map[string]int{}}
	if tr, err := Open(streamOptions(fs)); err == nil {
		streamLoad(t, tr, m, &mu)
		_ = tr.Close()
	}
	mu.Lock()
	on = false
	didFail := failed
	mu.Unlock()
	requireRecovered(t, mem, m, m.acked, fmt.Sprintf("operation %d, lasting %v", i, lasting))
	return didFail
}

// Many goroutines write, replace, read and delete large and small values under a
// cache much smaller than they, with restarts; what is read is always a value that
// was written whole.
func TestStreamModel(t *testing.T) {
	const writers, keys, rounds = 4, 6, 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	fs := vfs.NewMem()
	var last [writers][keys]string
	for round := range rounds {
		o := tinyOnDisk(fs)
		o.Cache.SnapshotBytes = 32 << 10
		// Segments hold a few parts only here, and the writers would mostly wait for
		// the cleaner.
		o.Cache.SpaceTarget = 1000
		tr, err := Open(o)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for w := range writers {
			rng := rand.New(rand.NewPCG(seed, uint64(round*writers+w)))
			wg.Go(func() {
				for n := range 120 {
					if err := streamStep(tr, rng, last[w][:], w, round*1000+n); err != nil {
						t.Errorf("writer %d: %v", w, err)
						return
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, tr.Check())
		requireNoLeak(t, tr, "before Close")
		require.NoError(t, tr.Close())
		tr, err = Open(o)
		require.NoError(t, err)
		for w := range writers {
			for i, want := range last[w] {
				got, _ := get(t, tr, fmt.Sprintf("%d/%d", i, w))
				require.Equal(t, want, got)
			}
		}
		requireNoLeak(t, tr, "after Open")
		require.NoError(t, tr.Close())
	}
}

func streamStep(tr *Tree, rng *rand.Rand, last []string, w, n int) error {
	i := rng.IntN(len(last))
	key := fmt.Sprintf("%d/%d", i, w)
	v := streamed(key+fmt.Sprint("-", n), rng.IntN(6000))
	switch rng.IntN(6) {
	case 0:
		last[i] = ""
		return tr.Delete([]byte(key))
	case 1:
		last[i] = string(v[:len(v)/100])
		return tr.Set([]byte(key), v[:len(v)/100])
	case 2, 3:
		last[i] = string(v)
		return setFrom(tr, key, v)
	}
	r, err := tr.GetReader([]byte(key))
	if err == ErrNotFound && last[i] == "" {
		return nil
	}
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := r.WriteTo(&b); err != nil {
		return err
	}
	if b.String() != last[i] {
		return fmt.Errorf("key %s: read %d bytes, want %d", key, b.Len(), len(last[i]))
	}
	return r.Close()
}
