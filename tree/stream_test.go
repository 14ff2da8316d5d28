package tree

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/epoch"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

func TestChunkListExample(t *testing.T) {
	list := appendChunks(nil, 250, 100, []chunk{{5, 1}, {6, 1}, {9, 1}})
	require.Equal(t, "fa01640a0102010601", hex.EncodeToString(list))
	require.True(t, validChunks(list))
	require.False(t, validChunks(list[:len(list)-2]), "a chunk is missing")
}

// usedPages returns the PIDs in use, and those that something refers to: nodes,
// the chunks of all versions, the page of drafts. Nothing else may go on.
func usedPages(t testing.TB, tr *Tree) (used, referred []PID) {
	tr.joiner.mu.Lock() // what is joined is freed
	defer tr.joiner.mu.Unlock()
	pinned(tr, func(g epoch.Guard) {
		for pid := PID(1); pid < 20_000; pid++ {
			_, err := tr.cache.View(g, pid)
			if err == nil {
				used = append(used, pid)
			} else if err != pagecache.ErrGone {
				require.NoError(t, err)
			}
		}
	})
	if pid := tr.drafts.page.Load(); pid != 0 {
		referred = append(referred, PID(pid))
		names, err := tr.readList(PID(pid), kindDrafts)
		require.NoError(t, err)
		require.Empty(t, names, "drafts without a writer")
	}
	level := []PID{tr.root.Load().pid}
	for len(level) > 0 {
		var below []PID
		for _, pid := range level {
			n, err := tr.merged(pid)
			require.NoError(t, err)
			referred = append(referred, pid)
			for i := range n.count() {
				switch e := n.entry(i); {
				case !n.isLeaf():
					below = append(below, childOf(e.value))
				case e.flags&entryIndirect != 0:
					r, _ := readChunks(e.value)
					for len(r.rest) > 0 {
						c, ok := r.next()
						require.True(t, ok)
						referred = append(referred, c.pid)
					}
				}
			}
		}
		level = below
	}
	slices.Sort(referred)
	return used, referred
}

func pagesInUse(tr *Tree) (n int) {
	g := tr.cache.Pin()
	defer g.Unpin()
	for pid := PID(1); pid < 20_000; pid++ {
		if _, err := tr.cache.View(g, pid); err == nil {
			n++
		}
	}
	return n
}

func requireNoLeak(t testing.TB, tr *Tree, message string) {
	var used, referred []PID
	for range 100 { // the background may be freeing some
		if used, referred = usedPages(t, tr); slices.Equal(referred, used) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, pid := range used {
		if _, ok := slices.BinarySearch(referred, pid); !ok {
			require.NoError(t, tr.cache.Load(pid))
			pinned(tr, func(g epoch.Guard) {
				v, err := tr.cache.View(g, pid)
				require.NoError(t, err)
				t.Errorf("page %d at version %d is in use and nothing refers to it: %.60q", pid, v.Version(), v.Base())
			})
		}
	}
	t.Fatalf("%s: %d pages in use, %d referred to", message, len(used), len(referred))
}

// streamed is a value that is streamed in a tiny tree.
func streamed(tag string, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%s/%d,", tag, i)
	}
	return b[:n]
}

func setFrom(tr *Tree, key string, value []byte) error {
	return tr.SetFrom([]byte(key), iotest.OneByteReader(bytes.NewReader(value)), int64(len(value)))
}

// Values of all lengths about the limits come back by every way of reading.
func TestSetFrom(t *testing.T) {
	for _, inMemory := range []bool{false, true} {
		o := tinyOnDisk(vfs.NewMem())
		if inMemory {
			o = tiny()
		}
		tr := openTree(t, o)
		part := tr.chunkBytes
		for _, n := range []int{0, 1, tr.inlineMax, tr.inlineMax + 1, part, tr.streamMin, tr.streamMin + 1,
			10 * part, 10*part + 1, tr.aroundMin + 1, 1500 * part} {
			key, want := fmt.Sprint("key", n), streamed(fmt.Sprint(n), n)
			require.NoError(t, setFrom(tr, key, want), n)
			got, err := tr.GetTo(nil, []byte(key))
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), n)
			require.NoError(t, tr.Set([]byte(key+"set"), want), n)
			checkReader(t, tr, key+"set", want)
			checkReader(t, tr, key, want)
		}
		require.NoError(t, tr.Check())
		requireNoLeak(t, tr, "")
		require.ErrorIs(t, tr.SetFrom(nil, bytes.NewReader(nil), MaxValueBytes+1), ErrTooLarge)
		require.ErrorIs(t, tr.SetFrom(nil, bytes.NewReader(nil), -1), ErrTooLarge)
		require.ErrorIs(t, tr.SetFrom(make([]byte, MaxKeyBytes+1), bytes.NewReader(nil), 0), ErrTooLarge)
		require.NoError(t, tr.Close())
		require.ErrorIs(t, setFrom(tr, "a", nil), ErrClosed)
	}
}

func checkReader(t *testing.T, tr *Tree, key string, want []byte) {
	r, err := tr.GetReader([]byte(key))
	require.NoError(t, err)
	require.EqualValues(t, len(want), r.Size())
	if len(want) < 4000 {
		require.NoError(t, iotest.TestReader(r, want))
	}
	_, err = r.Seek(0, io.SeekStart)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	half := int64(len(want) / 2)
	at, err := r.Seek(-half, io.SeekEnd)
	require.NoError(t, err)
	require.EqualValues(t, len(want)-int(half), at)
	var b bytes.Buffer
	n, err := r.WriteTo(&b)
	require.NoError(t, err)
	require.Equal(t, half, n)
	require.True(t, bytes.Equal(want[at:], b.Bytes()))
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	_, err = r.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrClosed)
}

// A closed reader gives nothing. One of a short value wrote it all before it failed.
func TestWriteToAfterClose(t *testing.T) {
	r := NewValueReader([]byte("value"))
	require.NoError(t, r.Close())
	var b bytes.Buffer
	n, err := r.WriteTo(&b)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, n)
	require.Zero(t, b.Len())
}

// A reader sees one moment: its value stays while it is replaced and deleted, and
// its space comes back when the reader is closed.
func TestReaderSeesOneMoment(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	var readers []*ValueReader
	var want [][]byte
	for i := range 5 {
		v := streamed(fmt.Sprint(i), 3000+i)
		require.NoError(t, setFrom(tr, "k", v))
		r, err := tr.GetReader([]byte("k"))
		require.NoError(t, err)
		readers, want = append(readers, r), append(want, v)
	}
	m := tr.OpenMoment()
	require.NoError(t, tr.Delete([]byte("k")))
	_, err := tr.GetReader([]byte("k"))
	require.ErrorIs(t, err, ErrNotFound)
	at, err := tr.GetReaderAt(m, []byte("k"))
	require.NoError(t, err)
	m.Close()
	readers, want = append(readers, at), append(want, want[4])
	for i := range 200 { // the leaf is merged and split meanwhile
		require.NoError(t, tr.Set(fmt.Appendf(nil, "k%d", i), []byte("x")))
	}
	for i, r := range readers {
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want[i], got), i)
		require.NoError(t, r.Close())
	}
	require.Eventually(t, func() bool {
		used, referred := usedPages(t, tr)
		return slices.Equal(used, referred) && len(used) < 100
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, tr.Check())
}

// Many goroutines read parts of one value by ReadAt.
func TestReadAtConcurrently(t *testing.T) {
	tr := openTree(t, tinyOnDisk(vfs.NewMem()))
	want := streamed("v", 20_000)
	require.NoError(t, setFrom(tr, "k", want))
	r, err := tr.GetReader([]byte("k"))
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				off := rand.IntN(len(want))
				p := make([]byte, min(1+rand.IntN(300), len(want)-off))
				if n, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p[:n], want[off:off+n]) {
					t.Errorf("%d bytes at %d: %v", len(p), off, err)
					return
				}
			}
		})
	}
	wg.Wait()
	n, err := r.ReadAt(make([]byte, 10), int64(len(want)-4))
	require.Equal(t, 4, n)
	require.Equal(t, io.EOF, err)
	require.NoError(t, r.Close())
}

// The leaf of a streamed value is split and merged without rewriting the value, and
// a value that is replaced by Set or Delete gives its space back at once.
func TestStreamedValueStays(t *testing.T) {
	o := tinyOnDisk(vfs.NewMem())
	o.Cache.CacheSize = 1 << 20 // leaves stay in memory: a blind update does not see what it replaces
	tr := openTree(t, o)
	want := streamed("v", 50_000)
	require.NoError(t, setFrom(tr, "m", want))
	list, err := tr.chunksAt(newestMoment, []byte("m"))
	require.NoError(t, err)
	for i := range 3000 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%c%d", 'a'+i%26, i), []byte("value")))
	}
	require.NotZero(t, tr.Metrics().LeafSplits)
	now, err := tr.chunksAt(newestMoment, []byte("m"))
	require.NoError(t, err)
	require.Equal(t, list, now)
	checkReader(t, tr, "m", want)
	requireNoLeak(t, tr, "before Set")
	with, chunks := pagesInUse(tr), (len(want)+tr.chunkBytes-1)/tr.chunkBytes
	require.NoError(t, tr.Set([]byte("m"), []byte("small")))
	requireNoLeak(t, tr, "after Set")
	require.LessOrEqual(t, pagesInUse(tr)+chunks, with)
	require.NoError(t, setFrom(tr, "m", want))
	require.NoError(t, setFrom(tr, "m", want[1:]))
	require.NoError(t, tr.Delete([]byte("m")))
	requireNoLeak(t, tr, "after Delete")
	require.LessOrEqual(t, pagesInUse(tr)+chunks, with)
}

// Large values do not throw out what is in use.
func TestStreamedValuesLeaveTheCache(t *testing.T) {
	o := tinyOnDisk(vfs.NewMem())
	o.Cache.CacheSize, o.Cache.SegmentBytes, o.Cache.BufferBytes = 1<<20, 1<<20, 64<<10
	tr := openTree(t, o)
	for i := range 2000 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "%04d", i), []byte("value")))
	}
	loads := tr.Metrics().Cache.Loads
	want := streamed("v", 8<<20)
	require.NoError(t, tr.SetFrom([]byte("v"), bytes.NewReader(want), int64(len(want))))
	r, err := tr.GetReader([]byte("v"))
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, r.Close())
	for i := range 2000 {
		_, err := tr.GetTo(nil, fmt.Appendf(nil, "%04d", i))
		require.NoError(t, err)
	}
	m := tr.Metrics().Cache
	require.Equal(t, loads, m.Loads)
	require.LessOrEqual(t, m.MemoryBytes, o.Cache.CacheSize)
}

// A writer that fails, panics or gives another number of bytes leaves nothing
// behind, and the old value stays.
func TestStreamFailures(t *testing.T) {
	fs := vfs.NewMem()
	tr := openTree(t, tinyOnDisk(fs))
	old := streamed("old", 2000)
	require.NoError(t, setFrom(tr, "k", old))
	broken := errors.New("broken")
	for n := 0; n < 3000; n += 97 {
		part := streamed("new", n)
		r := io.MultiReader(bytes.NewReader(part), iotest.ErrReader(broken))
		require.ErrorIs(t, tr.SetFrom([]byte("k"), r, 3000), broken)
		require.ErrorIs(t, tr.SetFrom([]byte("k"), bytes.NewReader(part), 3000), io.ErrUnexpectedEOF)
		require.PanicsWithValue(t, "boom", func() {
			_ = tr.SetFrom([]byte("k"), io.MultiReader(bytes.NewReader(part), panicReader{}), 3000)
		})
	}
	requireNoLeak(t, tr, "")
	checkReader(t, tr, "k", old)

	// What follows in the reader is the caller's.
	r := bytes.NewReader(streamed("new", 3000))
	require.NoError(t, tr.SetFrom([]byte("k"), r, 2900))
	require.Equal(t, 100, r.Len())

	swapped, current, err := tr.CompareAndSwap([]byte("k"), old, streamed("x", 3000))
	require.NoError(t, err)
	require.False(t, swapped)
	require.Equal(t, streamed("new", 2900), current)
	swapped, _, err = tr.CompareAndSwap([]byte("k"), current, streamed("x", 3000))
	require.NoError(t, err)
	require.True(t, swapped)
	checkReader(t, tr, "k", streamed("x", 3000))
	require.NoError(t, tr.Check())
	requireNoLeak(t, tr, "after swaps")
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("boom") }
