package tree

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// A store that is whole verifies, whatever goes on meanwhile: splits, joins, cleaning,
// eviction, large and streamed values that come and go.
func TestVerifyWhileWriting(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	var stop atomic.Bool
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(w)))
			for n := 0; !stop.Load(); n++ {
				key := fmt.Appendf(nil, "%d/%04d", w, random.IntN(300))
				var err error
				switch x := random.IntN(40); {
				case x == 0:
					err = tr.SetFrom(key, bytes.NewReader(make([]byte, 40_000)), 40_000)
				case x == 1:
					err = tr.Set(key, make([]byte, 5000))
				case n/500%2 == 1 || x < 6:
					err = tr.Delete(key)
				default:
					err = tr.Set(key, fmt.Appendf(nil, "value %d", n))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	verified := 0
	for begin := time.Now(); time.Since(begin) < 1500*time.Millisecond || verified < 3; verified++ {
		last := int64(0)
		require.NoError(t, tr.Verify(context.Background(), func(done, total int64) {
			require.GreaterOrEqual(t, done, last)
			require.LessOrEqual(t, done, total)
			last = done
		}))
		require.NotZero(t, last)
	}
	stop.Store(true)
	wg.Wait()
	require.NoError(t, tr.Verify(context.Background(), nil))
	t.Logf("verified %d times", verified)
}

// A page in use that nothing names costs space for ever.
func TestVerifyFindsUnnamedPage(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	for i := range 200 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), []byte("value")))
	}
	require.NoError(t, tr.Verify(context.Background(), nil))
	pid, _, err := tr.cache.Allocate(append([]byte{}, chunkHeader[:]...))
	require.NoError(t, err)
	err = tr.Verify(context.Background(), nil)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, fmt.Sprintf("page %d", pid))
}

// A value that has lost a chunk is damage. Whoever read it, Verify included, looked it up
// again and again for ever.
func TestLostChunk(t *testing.T) {
	tr := openTree(t, tiny())
	key, large := []byte("key"), make([]byte, 300)
	require.NoError(t, tr.Set(key, large))
	list, err := tr.chunksAt(newestMoment, key)
	require.NoError(t, err)
	chunks, _ := readChunks(list)
	c, ok := chunks.next()
	require.True(t, ok)
	u := tr.cache.Begin()
	v, err := u.Acquire(c.pid)
	require.NoError(t, err)
	u.Free(v)
	_, err = u.Commit()
	require.NoError(t, err)

	_, err = tr.GetTo(nil, key)
	require.ErrorIs(t, err, ErrCorrupt)
	_, _, err = tr.CompareAndSwap(key, large, []byte("new"))
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, tr.Verify(context.Background(), nil), ErrCorrupt)
	require.NoError(t, tr.Set(key, []byte("new")))
}

func TestVerifyEnds(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	for i := range 200 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), []byte("value")))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, tr.Verify(ctx, nil), context.Canceled)
}

// Close need not wait for a Verify, which then ends; it must not look at what is gone.
func TestVerifyEndsWithClose(t *testing.T) {
	for i := range 40 {
		tr, err := Open(tinyOnDisk(vfs.NewMem()))
		require.NoError(t, err)
		for i := range 300 {
			require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), make([]byte, 50)))
		}
		ended := make(chan error, 1)
		go func() { ended <- tr.Verify(context.Background(), nil) }()
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		require.NoError(t, tr.Close())
		if err := <-ended; err != nil {
			require.ErrorIs(t, err, ErrClosed)
		}
	}
}
