package tree

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/pagecache"
)

// The examples of operand.go and erase.go.
func TestOperandsExample(t *testing.T) {
	require.Equal(t, "0161026263", hex.EncodeToString(appendOperands(nil, [][]byte{[]byte("a"), []byte("bc")})))
}

func TestEraseExample(t *testing.T) {
	require.Equal(t, "0900016163", hex.EncodeToString(appendErase(nil, []byte("a"), []byte("c"), false, false)))
}

// A decoder refuses what no encoder writes.
func TestEraseRefused(t *testing.T) {
	for _, x := range []string{
		"", "09", "0900", "09040161", "0900026163", "090000", "0900016161", "0900016261", "0901016163", "0902016163", "0900ff", "090080006163",
	} {
		b, err := hex.DecodeString(x)
		require.NoError(t, err)
		_, err = decodeErase(b)
		require.ErrorIs(t, err, ErrCorrupt, x)
		require.ErrorIs(t, delta(b).validate(), ErrCorrupt, x)
	}
	for _, x := range []string{"090300", "0902016161", "0901006261"} {
		b, _ := hex.DecodeString(x)
		require.NotPanics(t, func() { _, _ = decodeErase(b) })
	}
	require.False(t, validOperands(nil))
	require.False(t, validOperands([]byte{2, 'a'}))
	require.True(t, validOperands([]byte{0}))
}

func FuzzDecodeErase(f *testing.F) {
	f.Add(appendErase(nil, []byte("a"), []byte("c"), false, false))
	f.Add(appendErase(nil, nil, nil, true, true))
	base := leafOf(f, "a", "1", "b", "2", "c", "3")
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeErase(b)
		m := newMerger()
		defer m.release()
		out, mergeErr := m.merge(nil, base, []pagecache.Fragment{{Data: b, Stamp: 2}}, rule{})
		if err != nil {
			if len(b) > 0 && b[0] == kindLeafErase && mergeErr == nil {
				t.Fatal("merged what is not valid")
			}
			return
		}
		if mergeErr != nil || node(out).validate() != nil {
			t.Fatalf("merge: %v, %v", mergeErr, node(out).validate())
		}
		for _, key := range []string{"a", "b", "c"} {
			if _, alive := node(out).search([]byte(key)); alive == e.covers([]byte(key)) {
				t.Fatalf("%q of %v", key, node(out))
			}
		}
		if !bytes.Equal(appendErase(nil, e.lo, e.hi, e.loOpen, e.hiOpen), b) {
			t.Fatal("does not survive encoding")
		}
	})
}

func FuzzDecodeOperands(f *testing.F) {
	f.Add(appendOperands(nil, [][]byte{[]byte("a"), {}, []byte("bc")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var operands [][]byte
		rest := b
		for {
			x, after, ok := nextOperand(rest)
			if !ok {
				break
			}
			operands, rest = append(operands, x), after
		}
		_, _, err := folder{merger: func(_, base, x []byte) ([]byte, error) { return append(base, x...), nil }}.fold(nil, nil, b)
		if valid := validOperands(b); valid != (len(rest) == 0 && len(b) > 0) || valid && err != nil {
			t.Fatalf("valid %v, %d bytes are left, %v", valid, len(rest), err)
		}
		if len(rest) == 0 && !bytes.Equal(appendOperands(nil, operands), b) {
			t.Fatal("does not survive encoding")
		}
	})
}

func openMerging(t testing.TB, o Options, m Merger) *Tree {
	o.Merger = m
	return openTree(t, o)
}

// foldAll consolidates every leaf.
func foldAll(t require.TestingT, tr *Tree) {
	s := seek{}
	for {
		g, p, err := tr.locate(0, &s, 0)
		require.NoError(t, err)
		pid, last, hi := p.view.PID(), p.node.isLast(), bytes.Clone(p.node.hi())
		err = tr.cache.Fold(g, pid)
		g.Unpin()
		require.NoError(t, err)
		if last {
			return
		}
		s.key = hi
	}
}

func addNumbers(_, base, operand []byte) ([]byte, error) {
	n, _ := strconv.Atoi(string(base))
	x, err := strconv.Atoi(string(operand))
	return []byte(strconv.Itoa(n + x)), err
}

func appendMerger(_, base, operand []byte) ([]byte, error) { return append(base, operand...), nil }

func TestMergeCounters(t *testing.T) {
	tr := openMerging(t, tiny(), addNumbers)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 500 {
				if err := tr.Merge(fmt.Appendf(nil, "k%d", (i+g)%7), []byte("1")); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	sum := 0
	for it := tr.Scan(nil, nil); it.Next() || it.Close() != nil; {
		n, err := strconv.Atoi(string(it.Value()))
		require.NoError(t, err)
		sum += n
		v, _ := get(t, tr, string(it.Key()))
		require.Equal(t, v, string(it.Value()))
	}
	require.Equal(t, 2000, sum)
	foldAll(t, tr)
	require.NoError(t, tr.Check())
}

// Operands of a commit that need several deltas are put on the key once, whatever else
// the commit writes. All but the last delta of them were appended twice if the last did
// not fit the delta of the key before.
func TestLongMergeBehindOthers(t *testing.T) {
	tr := openMerging(t, tiny(), appendMerger)
	op := Op{Key: []byte("b"), Kind: OpMerge}
	var want string
	for _, c := range "abcd" {
		x := strings.Repeat(string(c), tr.operandMax()/2)
		op.Operands, want = append(op.Operands, []byte(x)), want+x
	}
	require.NoError(t, tr.Apply([]Op{{Key: []byte("a"), Value: []byte("1")}, op}))
	got, _ := get(t, tr, "b")
	require.True(t, got == want, "%d bytes, want %d", len(got), len(want))
}

// Operands on a value that lives in pages of its own, or amount to one, are folded
// by a write, so they do not pile up.
func TestMergeSettles(t *testing.T) {
	tr := openMerging(t, tiny(), appendMerger)
	m := tr.OpenMoment()
	var want []byte
	for i := range 2000 {
		x := fmt.Appendf(nil, "%d,", i)
		want = append(want, x...)
		require.NoError(t, tr.Merge([]byte("list"), x))
		if i == 100 {
			m.Close()
			m = tr.OpenMoment()
		}
	}
	v, err := tr.GetTo(nil, []byte("list"))
	require.NoError(t, err)
	require.Equal(t, string(want), string(v))
	old, err := tr.GetAt(m, nil, []byte("list"))
	require.NoError(t, err)
	require.Equal(t, string(want[:len(old)]), string(old))
	require.True(t, bytes.HasSuffix(old, []byte(",100,")))
	m.Close()
	require.NotZero(t, tr.Metrics().Settled)
	foldAll(t, tr)
	g, p, err := tr.locate(0, &seek{key: []byte("list")}, 0)
	require.NoError(t, err)
	size := p.view.Size()
	g.Unpin()
	require.Less(t, size, 1000)
	require.NoError(t, tr.Check())
}

// A merger that fails or panics harms reads of its key only, and loses nothing.
func TestMergeFails(t *testing.T) {
	failing := true
	tr := openMerging(t, tiny(), testMerger(&failing))
	for i := range 60 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "k%02d", i), []byte("v")))
	}
	for i := range 200 {
		require.NoError(t, tr.Merge([]byte("k10"), fmt.Append(nil, i%9)))
		switch i {
		case 100:
			require.NoError(t, tr.Merge([]byte("k10"), []byte("f")))
			require.NoError(t, tr.Merge([]byte("k11"), []byte("panic")))
			require.NoError(t, tr.Merge([]byte("k12"), []byte("nil")))
		}
	}
	foldAll(t, tr)
	for key, says := range map[string]string{"k10": "refused", "k11": "panicked"} {
		var failed *MergeError
		_, err := tr.GetTo(nil, []byte(key))
		require.ErrorAs(t, err, &failed)
		require.Equal(t, key, string(failed.Key))
		require.ErrorContains(t, err, says)
		_, err = tr.Has([]byte(key))
		require.ErrorAs(t, err, &failed)
		_, _, err = tr.CompareAndSwap([]byte(key), []byte("x"), []byte("y"))
		require.ErrorAs(t, err, &failed)
	}
	ok, err := tr.Has([]byte("k12"))
	require.NoError(t, err)
	require.False(t, ok)
	for _, move := range []func(*Iterator) bool{(*Iterator).Next, (*Iterator).Prev} {
		it, count := tr.Scan(nil, nil), 0
		for move(it) {
			count++
			bad := string(it.Key()) == "k10" || string(it.Key()) == "k11"
			require.Equal(t, bad, it.Value() == nil, "%q", it.Key())
			require.NotEqual(t, "k12", string(it.Key()))
		}
		require.Equal(t, 59, count)
		var failed *MergeError
		require.ErrorAs(t, it.Err(), &failed)
		require.ErrorAs(t, it.Close(), &failed)
	}
	require.NoError(t, tr.Check())
	require.NoError(t, tr.Set([]byte("k11"), []byte("again")))
	v, _ := get(t, tr, "k11")
	require.Equal(t, "again", v)
	tr.shrinker.close() // nobody else calls the merger
	tr.shrinker.start(tr, tr.shrinker.kept)
	failing = false
	want := "v"
	for i := range 200 {
		want += "|" + fmt.Sprint(i%9)
		if i == 100 {
			want += "|f"
		}
	}
	v, _ = get(t, tr, "k10")
	require.Equal(t, want, v)
	foldAll(t, tr)
	v, _ = get(t, tr, "k10")
	require.Equal(t, want, v)
}

func TestNoMerger(t *testing.T) {
	fs := vfs.NewMem()
	o := tiny()
	o.Cache = pagecache.Options{FS: fs, Dir: "d"}
	o.Merger = addNumbers
	tr, err := Open(o)
	require.NoError(t, err)
	require.NoError(t, tr.Set([]byte("a"), []byte("5")))
	require.NoError(t, tr.Merge([]byte("a"), []byte("2")))
	require.NoError(t, tr.Set([]byte("b"), []byte("1")))
	require.NoError(t, tr.Close())
	o.Merger = nil
	tr, err = Open(o)
	require.NoError(t, err)
	require.ErrorIs(t, tr.Merge([]byte("a"), []byte("2")), ErrNoMerger)
	_, err = tr.GetTo(nil, []byte("a"))
	require.ErrorIs(t, err, ErrNoMerger)
	it := tr.Scan(nil, nil)
	require.True(t, it.First())
	require.Nil(t, it.Value())
	require.True(t, it.Next())
	require.Equal(t, "1", string(it.Value()))
	require.ErrorIs(t, it.Close(), ErrNoMerger)
	foldAll(t, tr)
	require.NoError(t, tr.Delete([]byte("b")))
	require.NoError(t, tr.Close())
	o.Merger = addNumbers
	tr, err = Open(o)
	require.NoError(t, err)
	v, _ := get(t, tr, "a")
	require.Equal(t, "7", v)
	require.NoError(t, tr.Close())
}

// CompareAndSwap compares folded values, whatever they are stored as.
func TestMergeCompareAndSwap(t *testing.T) {
	failing := false
	for _, folded := range []bool{false, true} {
		tr := openMerging(t, tiny(), testMerger(&failing))
		key := []byte("k")
		step := func(op string) {
			require.NoError(t, tr.Merge(key, []byte(op)))
			if folded {
				foldAll(t, tr)
			}
		}
		swap := func(old, new []byte, want bool) {
			t.Helper()
			ok, _, err := tr.CompareAndSwap(key, old, new)
			require.NoError(t, err)
			require.Equal(t, want, ok)
		}
		step("1")
		swap(nil, []byte("x"), false)
		swap([]byte("1"), []byte("x"), false)
		swap([]byte("|1"), []byte("x"), true)
		step("nil")
		swap(nil, nil, true)
		swap([]byte("x"), []byte("y"), false)
		swap(nil, []byte("y"), true)
		step("2")
		swap([]byte("y|2"), nil, true)
		step("empty")
		swap([]byte{}, value("large", 300), true)
		step("3")
		large := append(value("large", 300), "|3"...)
		ok, current, err := tr.CompareAndSwap(key, []byte("x"), nil)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, string(large), string(current))
		swap(large, []byte("end"), true)
		step("n")
		require.NoError(t, tr.Delete(key))
		v, ok := get(t, tr, "k")
		require.False(t, ok, v)
	}
}

// The swaps of several goroutines with operands between them: each is on top of
// what it compared with.
func TestMergeCompareAndSwapConcurrent(t *testing.T) {
	tr := openMerging(t, tiny(), addNumbers)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := 0; i < 200; {
				if g%2 == 0 {
					if err := tr.Merge([]byte("n"), []byte("1")); err != nil {
						t.Error(err)
					}
					i++
					continue
				}
				old, err := tr.GetTo(nil, []byte("n"))
				if errors.Is(err, ErrNotFound) {
					old = nil
				}
				n, _ := strconv.Atoi(string(old))
				ok, _, err := tr.CompareAndSwap([]byte("n"), old, []byte(strconv.Itoa(n+1)))
				if err != nil {
					t.Error(err)
					return
				}
				if ok {
					i++
				}
			}
		}()
	}
	wg.Wait()
	v, _ := get(t, tr, "n")
	require.Equal(t, "800", v)
}

// treeModel is a tree beside the history of its keys. Stamps are counted by the
// model.
type treeModel struct {
	oracle
	tr      *Tree
	clock   uint64
	moments map[uint64]*Moment
	keys    []string
}

// Everything that writes, under open moments, in tiny nodes: GetAt, HasAt and ScanAt
// both ways say what the history says.
func TestTreeVersionsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		failing := rapid.Bool().Draw(t, "failing")
		o := tiny()
		o.Merger = testMerger(&failing)
		tr, err := Open(o)
		require.NoError(t, err)
		defer tr.Close()
		m := &treeModel{oracle{map[string][]event{}, &failing}, tr, 1, map[uint64]*Moment{}, nil}
		for i := range 40 {
			m.keys = append(m.keys, fmt.Sprintf("key%03d", i*3))
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			m.step(t)
		}
		m.check(t)
		for at, x := range m.moments {
			x.Close()
			delete(m.moments, at)
		}
		foldAll(t, tr)
		m.check(t)
		require.NoError(t, tr.Check())
	})
}

func (m *treeModel) step(t *rapid.T) {
	m.clock++
	key := rapid.SampledFrom(m.keys).Draw(t, "key")
	switch rapid.IntRange(0, 11).Draw(t, "step") {
	case 0, 1, 2:
		v := string(value("v"+fmt.Sprint(m.clock), rapid.SampledFrom([]int{0, 10, 50, 150}).Draw(t, "size")))
		require.NoError(t, m.tr.Set([]byte(key), []byte(v)))
		m.add(key, event{m.clock, 's', v})
	case 3:
		require.NoError(t, m.tr.Delete([]byte(key)))
		m.add(key, event{m.clock, 'd', ""})
	case 4, 5, 6:
		for range rapid.IntRange(1, 12).Draw(t, "count") {
			x := rapid.SampledFrom([]string{"1", "2", "3", "456789", "7", "8", "f", "p", "n", "e", "l"}).Draw(t, "operand")
			require.NoError(t, m.tr.Merge([]byte(key), []byte(x)))
			m.add(key, event{m.clock, 'm', x})
		}
	case 7:
		m.erase(t)
	case 8:
		m.commit(t)
	case 9:
		if x := m.tr.OpenMoment(); m.moments[m.clock] == nil {
			m.moments[m.clock] = x
		}
	case 10:
		for at, x := range m.moments {
			x.Close()
			delete(m.moments, at)
			break
		}
	default:
		if rapid.Bool().Draw(t, "fold") {
			foldAll(t, m.tr)
		}
		m.check(t)
	}
}

func (m *treeModel) drawRange(t *rapid.T) Range {
	lo, hi := rapid.IntRange(0, len(m.keys)-1).Draw(t, "lo"), rapid.IntRange(0, len(m.keys)).Draw(t, "hi")
	r := Range{Lo: []byte(m.keys[lo])}
	if hi < len(m.keys) {
		r.Hi = []byte(m.keys[hi])
	}
	for _, k := range m.keys {
		if k >= string(r.Lo) && (r.Hi == nil || k < string(r.Hi)) {
			m.add(k, event{m.clock, 'd', ""})
		}
	}
	return r
}

func (m *treeModel) erase(t *rapid.T) {
	r := m.drawRange(t)
	require.NoError(t, m.tr.DeleteRange(r.Lo, r.Hi))
}

func (m *treeModel) commit(t *rapid.T) {
	w := &Writes{}
	if rapid.Bool().Draw(t, "erase") {
		if r := m.drawRange(t); !r.empty() {
			w.Erase = append(w.Erase, r)
		}
	}
	keys := rapid.SliceOfNDistinct(rapid.SampledFrom(m.keys), 1, 20, rapid.ID[string]).Draw(t, "keys")
	slices.Sort(keys)
	for i, k := range keys {
		op := Op{Key: []byte(k)}
		switch i % 3 {
		case 0:
			op.Kind, op.Operands = OpMerge, [][]byte{[]byte("x"), []byte("y")}
			m.add(k, event{m.clock, 'm', "x"})
			m.add(k, event{m.clock, 'm', "y"})
		case 1:
			op.Kind, op.Value = OpSet, value(k, 40*i%130)
			m.add(k, event{m.clock, 's', string(op.Value)})
		default:
			op.Kind = OpDelete
			m.add(k, event{m.clock, 'd', ""})
		}
		w.Ops = append(w.Ops, op)
	}
	require.NoError(t, m.tr.Commit(w, nil))
}

func (m *treeModel) check(t *rapid.T) {
	m.clock++
	now := m.tr.OpenMoment()
	defer now.Close()
	m.checkAt(t, now, m.clock)
	for at, x := range m.moments {
		m.checkAt(t, x, at)
	}
}

func (m *treeModel) checkAt(t *rapid.T, x *Moment, at uint64) {
	var want []string
	fails := false
	for _, k := range m.keys {
		v, ok, wantErr := m.at(k, at)
		got, err := m.tr.GetAt(x, nil, []byte(k))
		has, hasErr := m.tr.HasAt(x, []byte(k))
		var failed *MergeError
		switch {
		case wantErr != nil:
			fails = true
			require.ErrorAs(t, err, &failed)
			require.ErrorAs(t, hasErr, &failed)
			want = append(want, k+"=")
		case ok:
			require.NoError(t, err, "%q at %d", k, at)
			require.Equal(t, v, string(got), "%q at %d", k, at)
			want = append(want, k+"="+v)
		default:
			require.ErrorIs(t, err, ErrNotFound, "%q at %d: %v", k, at, m.events[k])
		}
		if wantErr == nil {
			require.NoError(t, hasErr)
			require.Equal(t, ok, has)
		}
	}
	for _, move := range []func(*Iterator) bool{(*Iterator).Next, (*Iterator).Prev} {
		it := m.tr.ScanAt(x, nil, nil)
		var got []string
		for move(it) {
			got = append(got, string(it.Key())+"="+string(it.Value()))
		}
		require.Equal(t, fails, it.Close() != nil)
		require.Equal(t, want, got)
		slices.Reverse(want)
	}
}

// Reads of ordinary keys allocate nothing, beside keys with operands and below a
// range deletion too.
func TestReadAllocs(t *testing.T) {
	o := tiny()
	o.MaxNodeBytes = 4096
	tr := openMerging(t, o, appendMerger)
	for i := range 20 {
		require.NoError(t, tr.Set(fmt.Appendf(nil, "k%02d", i), []byte("v")))
	}
	foldAll(t, tr)
	require.NoError(t, tr.DeleteRange([]byte("k05"), []byte("k07")))
	require.NoError(t, tr.Merge([]byte("k09"), []byte("x")))
	dst := make([]byte, 0, 16)
	key, gone := []byte("k08"), []byte("k05")
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := tr.GetTo(dst, key); err != nil {
			t.Error(err)
		}
		if _, err := tr.GetTo(dst, gone); err != ErrNotFound {
			t.Error(err)
		}
		if ok, err := tr.Has(key); !ok || err != nil {
			t.Error(err)
		}
	}))
}

// An erasure of a whole leaf stores nothing per key when no moment is open.
func TestEraseStoresNothing(t *testing.T) {
	var pairs []string
	for i := range 5000 {
		pairs = append(pairs, fmt.Sprintf("k%05d", i), strings.Repeat("v", 20))
	}
	n := leafOf(t, pairs...)
	erase := pagecache.Fragment{Data: appendErase(nil, []byte("k00010"), []byte("k04990"), false, false), Stamp: 5}
	require.Equal(t, 20, mergeInto(t, n, rule{}, erase).count())
	require.Equal(t, 20, mergeInto(t, n, rule{moments: []uint64{5}}, erase).count())
	kept := mergeInto(t, n, rule{moments: []uint64{4}}, erase)
	require.Equal(t, 20+2*4980, kept.count())
	require.Equal(t, 20, mergeInto(t, kept, rule{}).count())
}

func BenchmarkMergeErase(b *testing.B) {
	var changes []change
	for i := range 5000 {
		changes = append(changes, change{key: fmt.Appendf(nil, "k%05d", i), value: []byte("value")})
	}
	n := mergeInto(b, emptyLeaf(), rule{}, pagecache.Fragment{Data: appendRun(nil, kindLeafRun, changes), Stamp: 1})
	deltas := []pagecache.Fragment{{Data: appendErase(nil, []byte("k00010"), []byte("k04990"), false, false), Stamp: 5}}
	m := new(merger)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = m.merge(dst[:0], n, deltas, rule{free: func([]byte) {}})
	}
}
