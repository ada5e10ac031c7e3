package status

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pcapdaemon/result"
)

// outline returns what a history holds, as "id state×times at second", newest first.
func (h *History) outline(began time.Time) []string {
	var lines []string
	for _, p := range h.Recent() {
		line := fmt.Sprintf("%s %s×%d at %.0f", p.ID, p.State, p.Times, p.At.Sub(began).Seconds())
		if p.Shared.Count > 0 {
			line += fmt.Sprintf(", shared by %d %v", p.Shared.Count, p.Shared.IDs)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestHistory(t *testing.T) {
	const eth0 = `"interface":"eth0","node":"web1"`
	for name, test := range map[string]struct {
		told []string // one each second
		want []string
	}{
		"nothing": {nil, nil},
		"how captures ended": {
			[]string{`{"id":"a","state":"started"}`, `{"id":"a","state":"running"}`, `{"id":"a","state":"done"}`,
				`{"id":"b","state":"failed"}`, `{"id":"c","state":"refused"}`, `{"id":"d","state":"present"}`},
			[]string{"c refused×1 at 4", "b failed×1 at 3", "a done×1 at 2"}},
		"a capture that many share": {
			[]string{`{"id":"a","state":"done"}`, `{"id":"b","state":"done","shared":"a"}`,
				`{"id":"c","state":"done","shared":"a"}`},
			[]string{"a done×1 at 0, shared by 2 [b c]"}},
		"the second of two captures of one id is shared": {
			[]string{`{"id":"a","state":"done","started":"2026-01-02T03:04:05.000000006Z"}`,
				`{"id":"a","state":"done","started":"2026-01-02T03:04:05.000000007Z"}`,
				`{"id":"b","state":"done","shared":"a","started":"2026-01-02T03:04:05.000000007Z"}`},
			[]string{"a done×1 at 1, shared by 1 [b]", "a done×1 at 0"}},
		"a capture that was kept and that many share": {
			[]string{`{"id":"a","state":"kept"}`, `{"id":"b","state":"kept","shared":"a"}`,
				`{"id":"a","state":"done"}`, `{"id":"b","state":"done","shared":"a"}`},
			[]string{"a done×1 at 2, shared by 1 [b]"}},
		"a capture that was kept and is uploaded later": {
			[]string{`{"id":"a","state":"kept",` + eth0 + `}`, `{"id":"b","state":"kept",` + eth0 + `}`,
				`{"id":"a","state":"done",` + eth0 + `}`},
			[]string{"a done×1 at 2", "b kept×1 at 1"}},
		"two captures of one request": {
			[]string{`{"id":"a","state":"kept",` + eth0 + `}`, `{"id":"a","state":"done","interface":"eth1"}`},
			[]string{"a done×1 at 1", "a kept×1 at 0"}},
		"two captures of one id": {
			[]string{`{"id":"a","state":"kept","started":"2026-01-02T03:04:05.000000006Z"}`,
				`{"id":"a","state":"done","started":"2026-01-02T03:04:05.000000007Z"}`},
			[]string{"a done×1 at 1", "a kept×1 at 0"}},
		"refused while another capture of the id is kept": {
			[]string{`{"id":"a","state":"kept",` + eth0 + `}`, `{"id":"a","state":"refused",` + eth0 + `}`},
			[]string{"a refused×1 at 1", "a kept×1 at 0"}},
		"refused over and over": {
			[]string{`{"id":"a","state":"refused","error":"no"}`, `{"id":"b","state":"refused","error":"no"}`,
				`{"id":"c","state":"refused","error":"never"}`, `{"id":"d","state":"refused","error":"never",` + eth0 + `}`},
			[]string{"d refused×1 at 3", "c refused×1 at 2", "b refused×2 at 1"}},
		"failed over and over": {
			[]string{`{"id":"a","state":"failed","error":"no"}`, `{"id":"b","state":"failed","error":"no"}`},
			[]string{"b failed×1 at 1", "a failed×1 at 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, began := &History{}, time.Now()
				for _, message := range test.told {
					r, err := result.Decode([]byte(message))
					if err != nil {
						t.Fatal(err)
					}
					h.Add(r)
					time.Sleep(time.Second)
				}
				if got := h.outline(began); !slices.Equal(test.want, got) {
					t.Errorf("want %q, got %q", test.want, got)
				}
			})
		})
	}
}

func TestHistoryForgets(t *testing.T) {
	var h History
	for i := range 2*maxHistory + 7 {
		h.Add(result.Result{ID: strconv.Itoa(i), State: result.Done})
	}
	got := h.Recent()
	newest, oldest := strconv.Itoa(2*maxHistory+6), strconv.Itoa(maxHistory+7)
	if len(got) != maxHistory || got[0].ID != newest || got[maxHistory-1].ID != oldest {
		t.Errorf("want the last %d, newest first, got %d, from %s to %s", maxHistory, len(got), got[0].ID, got[len(got)-1].ID)
	}
}
