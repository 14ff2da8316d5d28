package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The processes that run a workload are this program, so this test binary must be
// able to play it.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[1] == "-child" || os.Args[1] == "-evict") {
		main()
		return
	}
	os.Exit(m.Run())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// All stores answer alike: what is compared does the same.
func TestStores(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			e, err := k.open(settings{dir: t.TempDir(), cache: 64 << 20, sync: true, together: k.batches})
			check(t, err)
			w := e.worker()
			model := make(map[string]string)
			for i := range 300 {
				key := fmt.Sprintf("key %03d", i*7%300)
				model[key] = fmt.Sprint("value ", i)
				if i%3 == 0 {
					check(t, w.set([]byte(key), []byte(model[key])))
				}
			}
			rest := slices.Sorted(maps.Keys(model))
			check(t, w.batch(len(rest), func(i int) (key, value []byte) { return []byte(rest[i]), []byte(model[rest[i]]) }))
			s, err := w.snapshot()
			check(t, err)
			before := maps.Clone(model)
			for i := 0; i < 300; i += 5 {
				key := fmt.Sprintf("key %03d", i)
				check(t, w.delete([]byte(key)))
				delete(model, key)
			}
			err = w.update(func(tx transaction) error {
				found, err := tx.get([]byte("key 001"), func(value []byte) error {
					if string(value) != model["key 001"] {
						return fmt.Errorf("wrong value %q", value)
					}
					return nil
				})
				return errors.Join(err, tx.set([]byte("key 002"), []byte(fmt.Sprint(found))))
			})
			if k.transactions {
				check(t, err)
				model["key 002"] = "true"
			} else if !errors.Is(err, errUnsupported) {
				t.Fatal(err)
			}
			sameRows(t, w, model)
			sameRows(t, s, before)
			check(t, s.close())
			check(t, e.close())
		})
	}
}

func sameRows(t *testing.T, v view, model map[string]string) {
	t.Helper()
	for i := range 310 {
		key := fmt.Sprintf("key %03d", i)
		var got []byte
		found, err := v.get([]byte(key), func(value []byte) error { got = append(got, value...); return nil })
		check(t, err)
		if want, ok := model[key]; found != ok || string(got) != want {
			t.Fatalf("%s: %q, %v", key, got, found)
		}
	}
	keys := slices.Sorted(maps.Keys(model))
	for _, from := range []string{"", "a", "key 000", "key 001", "key 005", "key 150", "key 1505", "key 299", "z"} {
		for _, backwards := range []bool{false, true} {
			for _, n := range []int{1, 10, 1000} {
				var want, got []string
				for _, key := range keys {
					if from == "" || (key < from) == backwards {
						want = append(want, key+model[key])
					}
				}
				if backwards {
					slices.Reverse(want)
				}
				bound := []byte(from)
				if from == "" {
					bound = nil
				}
				check(t, v.scan(bound, backwards, n, func(key, value []byte) error {
					got = append(got, string(key)+string(value))
					return nil
				}))
				if want = want[:min(n, len(want))]; !slices.Equal(want, got) {
					t.Fatalf("%d rows from %q, backwards %v: %q, want %q", n, from, backwards, got, want)
				}
			}
		}
	}
}

// A value that was not written under its key is noticed.
func TestWrongValueIsNoticed(t *testing.T) {
	dir := t.TempDir()
	x, err := perform(spec{Kind: "pulk", Workload: "fill", Goroutines: 2, Keys: 3000, Value: 100, Seconds: 0.01, Dir: dir})
	check(t, err)
	if x.Ops != 4 {
		t.Fatal(x)
	}
	e, err := openPulk(settings{dir: dir, cache: 64 << 20})
	check(t, err)
	w := e.worker()
	var key, value []byte
	check(t, w.scan(nil, false, 1, func(k, v []byte) error { key, value = bytes.Clone(k), bytes.Clone(v); return nil }))
	value[50] ^= 1
	check(t, w.set(key, value))
	check(t, e.close())
	for _, workload := range []string{"get", "scan all", "get zipf"} {
		_, err = perform(spec{Kind: "pulk", Workload: workload, Goroutines: 2, Keys: 3000, Value: 100, Seconds: 0.01, Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "never written") {
			t.Fatalf("%s: %v", workload, err)
		}
	}
}

// Results become tables and a chart.
func TestReport(t *testing.T) {
	var results []result
	for round, rate := range []float64{3, 1, 2} {
		for i, k := range []string{"pulk", "pebble", "badger"} {
			results = append(results, result{
				Kind: k, Workload: "get", Goroutines: 2, Round: round, Rate: rate * float64(4-i), P50: time.Duration(rate), Space: 1.5, Written: rate,
			})
		}
	}
	s := summarize(results)
	var out bytes.Buffer
	s.print(&out)
	for _, want := range []string{"| get, 2 | 8 ±50% | 6 ±50% | 4 ±50% | 1.33 |", "| get, 2 | 2.0 1.50 | 2.0 1.50 | 2.0 1.50 |"} {
		if !strings.Contains(out.String(), want) {
			t.Fatalf("%s is not in\n%s", want, &out)
		}
	}
	chart := xml.NewDecoder(bytes.NewReader(s.svg()))
	for {
		if _, err := chart.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(results)
	check(t, err)
	var again []result
	check(t, json.Unmarshal(b, &again))
	if !slices.Equal(results, again) {
		t.Fatal(again)
	}
}

// While a directory is kept out of the system's cache, cold workloads run.
func TestColdRuns(t *testing.T) {
	for _, k := range kinds {
		if k.batches {
			continue
		}
		dir := t.TempDir()
		for _, name := range []string{"fill", "cold get", "cold set"} {
			x, err := perform(spec{Kind: k.name, Workload: name, Goroutines: 2, Keys: 3000, Value: 100, Seconds: 0.05, Dir: dir})
			check(t, err)
			if x.Ops == 0 {
				t.Fatalf("%s, %s: nothing was done", k.name, name)
			}
		}
	}
}
