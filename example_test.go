package db_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/pulkdb/db"
)

// tempDir returns a directory for an Example and a function that removes it.
func tempDir() (string, func()) {
	dir, err := os.MkdirTemp("", "pulk-example-")
	if err != nil {
		panic(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// must is what an Example does with an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func Example() {
	dir, remove := tempDir()
	defer remove()

	store, err := db.Open(dir, nil)
	must(err)
	defer store.Close()

	must(store.Set([]byte("Lauterbrunnen"), []byte("795 m")))
	must(store.Set([]byte("Grindelwald"), []byte("1034 m")))

	value, err := store.Get([]byte("Grindelwald"))
	must(err)
	fmt.Printf("%s\n", value)

	_, err = store.Get([]byte("Atlantis"))
	fmt.Println(errors.Is(err, db.ErrNotFound))
	// Output:
	// 1034 m
	// true
}

func ExampleSalvage() {
	dir, remove := tempDir()
	defer remove()
	damaged, into := filepath.Join(dir, "damaged"), filepath.Join(dir, "salvaged")

	store, err := db.Open(damaged, nil)
	must(err)
	must(store.Set([]byte("Grindelwald"), []byte("1034 m")))
	must(store.Close())
	must(os.Remove(filepath.Join(damaged, "STORE")))
	_, err = db.Open(damaged, nil)
	fmt.Println(errors.Is(err, db.ErrNotStore))

	report, err := db.Salvage(context.Background(), damaged, into, nil)
	must(err)
	fmt.Println(report.Keys, "key; nothing is lost:", report.Whole())
	for _, d := range report.Damage {
		fmt.Println("damage:", d.File)
	}
	// Output:
	// true
	// 1 key; nothing is lost: true
	// damage: STORE
}

func ExampleOpen() {
	dir, remove := tempDir()
	defer remove()

	store, err := db.Open(dir, &db.Options{
		CacheSize:  64 << 20,
		Durability: db.DurabilityPeriodic,
	})
	must(err)
	must(store.Set([]byte("key"), []byte("value")))
	must(store.Close())

	store, err = db.Open(dir, nil) // options may differ
	must(err)
	defer store.Close()
	value, err := store.Get([]byte("key"))
	must(err)
	fmt.Printf("%s\n", value)
	// Output: value
}

func ExampleDB_Scan() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	for _, month := range []string{"2025-11", "2025-12", "2026-01", "2026-02"} {
		must(store.Set([]byte(month), []byte("report")))
	}

	it := store.Scan([]byte("2025-12"), []byte("2026-02"))
	for key, value := range it.All() {
		fmt.Printf("%s %s\n", key, value)
	}
	must(it.Err())

	it = store.ScanPrefix([]byte("2025"))
	for key := range it.Backward() {
		fmt.Printf("%s\n", key)
	}
	must(it.Err())
	// Output:
	// 2025-12 report
	// 2026-01 report
	// 2025-12
	// 2025-11
}

func ExampleIterator() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	for _, key := range []string{"a", "b", "c", "d"} {
		must(store.Set([]byte(key), nil))
	}

	it := store.Scan(nil, nil)
	defer it.Close()
	for ok := it.SeekGE([]byte("bb")); ok; ok = it.Next() {
		fmt.Printf("%s\n", it.Key())
	}
	must(it.Err())
	// Output:
	// c
	// d
}

func ExampleBatch() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	must(store.Set([]byte("account/anna"), []byte("100")))
	must(store.Set([]byte("account/ben"), []byte("20")))

	// Nobody ever sees the money in both accounts, or in none.
	transfer := store.NewBatch()
	must(transfer.Set([]byte("account/anna"), []byte("70")))
	must(transfer.Set([]byte("account/ben"), []byte("50")))
	must(transfer.Commit())

	it := store.ScanPrefix([]byte("account/"))
	for key, value := range it.All() {
		fmt.Printf("%s %s\n", key, value)
	}
	must(it.Err())
	// Output:
	// account/anna 70
	// account/ben 50
}

func ExampleDB_CompareAndSwap() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()

	// increment counts up, whoever else does so at the same time.
	increment := func(key []byte) error {
		var old []byte // nil: the key must be absent
		for {
			n, _ := strconv.Atoi(string(old))
			swapped, current, err := store.CompareAndSwap(key, old, []byte(strconv.Itoa(n+1)))
			if err != nil || swapped {
				return err
			}
			old = current
		}
	}
	for range 3 {
		must(increment([]byte("visits")))
	}
	value, err := store.Get([]byte("visits"))
	must(err)
	fmt.Printf("%s\n", value)
	// Output: 3
}

// Counters: Merge does not read, so any number of goroutines add to one counter
// without a conflict.
func ExampleDB_Merge() {
	add := func(_, base, operand []byte) ([]byte, error) {
		sum := int64(0)
		for _, p := range [][]byte{base, operand} {
			if len(p) == 0 {
				continue // absent
			}
			n, err := strconv.ParseInt(string(p), 10, 64)
			if err != nil {
				return nil, err
			}
			sum += n
		}
		return strconv.AppendInt(nil, sum, 10), nil
	}
	store, err := db.Open("", &db.Options{InMemory: true, Merger: add})
	must(err)
	defer store.Close()

	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { must(store.Merge([]byte("visits"), []byte("3"))) })
	}
	wg.Wait()
	must(store.Merge([]byte("visits"), []byte("-5")))
	value, err := store.Get([]byte("visits"))
	must(err)
	fmt.Printf("%s\n", value)
	// Output: 25
}

// Lists: an operand is an element, which is put behind the others.
func ExampleMerger() {
	appendTo := func(_, base, operand []byte) ([]byte, error) {
		if base == nil {
			return operand, nil
		}
		return append(append(base, ','), operand...), nil
	}
	store, err := db.Open("", &db.Options{InMemory: true, Merger: appendTo})
	must(err)
	defer store.Close()

	peak := []byte("peaks/Bernese Alps")
	for _, name := range []string{"Eiger", "Mönch", "Jungfrau"} {
		must(store.Merge(peak, []byte(name)))
	}
	value, err := store.Get(peak)
	must(err)
	fmt.Printf("%s\n", value)
	// Output: Eiger,Mönch,Jungfrau
}

func ExampleDB_Update() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	must(store.Set([]byte("account/anna"), []byte("100")))
	must(store.Set([]byte("account/ben"), []byte("20")))

	errPoor := errors.New("not enough money")
	balance := func(tx *db.Tx, name string) int {
		value, err := tx.Get([]byte("account/" + name))
		must(err)
		n, err := strconv.Atoi(string(value))
		must(err)
		return n
	}
	// transfer may be called by many goroutines at once: no money is lost, and
	// no account is overdrawn.
	transfer := func(from, to string, amount int) error {
		return store.Update(func(tx *db.Tx) error {
			rest := balance(tx, from) - amount
			if rest < 0 {
				return errPoor
			}
			sum := balance(tx, to) + amount
			if err := tx.Set([]byte("account/"+from), strconv.AppendInt(nil, int64(rest), 10)); err != nil {
				return err
			}
			return tx.Set([]byte("account/"+to), strconv.AppendInt(nil, int64(sum), 10))
		})
	}
	must(transfer("anna", "ben", 70))
	fmt.Println(transfer("anna", "ben", 70))

	must(store.View(func(tx *db.Tx) error {
		fmt.Println(balance(tx, "anna"), balance(tx, "ben"))
		return nil
	}))
	// Output:
	// not enough money
	// 30 90
}

func ExampleDB_Snapshot() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	must(store.Set([]byte("price"), []byte("10")))

	before := store.Snapshot()
	defer before.Close()
	must(store.Set([]byte("price"), []byte("12")))

	then, err := before.Get([]byte("price"))
	must(err)
	now, err := store.Get([]byte("price"))
	must(err)
	fmt.Printf("%s %s\n", then, now)
	// Output: 10 12
}

func ExampleDB_SetFrom() {
	dir, remove := tempDir()
	defer remove()
	store, err := db.Open(dir, nil)
	must(err)
	defer store.Close()

	// A value of 16 MiB, of which only a part at a time is in memory.
	const size = 16 << 20
	must(store.SetFrom([]byte("map"), strings.NewReader(strings.Repeat("tile ", size/5+1)), size))

	r, err := store.GetReader([]byte("map"))
	must(err)
	defer r.Close()
	must(store.Delete([]byte("map"))) // r goes on reading what it was opened on

	_, err = r.Seek(-7, io.SeekEnd)
	must(err)
	end, err := io.ReadAll(r)
	must(err)
	fmt.Printf("%d bytes, the last are %q\n", r.Size(), end)
	// Output: 16777216 bytes, the last are " tile t"
}

func ExampleDB_DeleteRange() {
	store, err := db.Open("", &db.Options{InMemory: true})
	must(err)
	defer store.Close()
	for _, day := range []string{"log/2026-01-30", "log/2026-01-31", "log/2026-02-01"} {
		must(store.Set([]byte(day), nil))
	}
	must(store.DeleteRange([]byte("log/"), []byte("log/2026-02")))
	it := store.Scan(nil, nil)
	for key := range it.All() {
		fmt.Printf("%s\n", key)
	}
	must(it.Err())
	// Output: log/2026-02-01
}

// readme is the example of README.md.
func readme(dir string) error {
	store, err := db.Open(dir, nil)
	if err != nil {
		return err
	}
	defer store.Close()
	if err := store.Set([]byte("greeting/en"), []byte("hello")); err != nil {
		return err // nil means that it is on disk
	}
	value, err := store.Get([]byte("greeting/en"))
	fmt.Printf("%s, %v\n", value, err) // hello, <nil>
	rows := store.ScanPrefix([]byte("greeting/"))
	for key, value := range rows.All() {
		fmt.Printf("%s = %s\n", key, value)
	}
	return rows.Err()
}

func Example_readme() {
	dir, remove := tempDir()
	defer remove()
	must(readme(dir))
	// Output:
	// hello, <nil>
	// greeting/en = hello
}

func ExampleDB_Verify() {
	d, err := db.Open("", &db.Options{InMemory: true})
	if err != nil {
		panic(err)
	}
	defer d.Close()
	if err := d.Set([]byte("key"), []byte("value")); err != nil {
		panic(err)
	}
	fmt.Println(d.Verify(context.Background()))
	// Output: <nil>
}

func ExampleRestore() {
	ctx := context.Background()
	d, err := db.Open("", &db.Options{InMemory: true})
	if err != nil {
		panic(err)
	}
	defer d.Close()
	must(d.Set([]byte("a"), []byte("1")))
	must(d.Set([]byte("b"), []byte("1")))
	var full, incremental bytes.Buffer
	first, err := d.BackupWith(ctx, &full, db.BackupOptions{})
	must(err)
	must(d.Set([]byte("a"), []byte("2")))
	must(d.Delete([]byte("b")))
	_, err = d.BackupWith(ctx, &incremental, db.BackupOptions{Since: first.Point})
	must(err)

	dir, remove := tempDir()
	defer remove()
	restored := filepath.Join(dir, "restored")
	must(db.Restore(ctx, restored, io.MultiReader(&full, &incremental)))
	d, err = db.Open(restored, nil)
	must(err)
	defer d.Close()
	rows := d.Scan(nil, nil)
	for key, value := range rows.All() {
		fmt.Printf("%s = %s\n", key, value)
	}
	must(rows.Err())
	// Output:
	// a = 2
}
