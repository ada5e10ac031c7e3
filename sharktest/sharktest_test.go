package sharktest

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
)

// post uploads a file with its name and tags, and returns status and answer.
func post(t *testing.T, address string, file []byte, tags string, more ...string) (int, string) {
	t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, _ := form.CreateFormFile("file", "x.pcap")
	_, _ = part.Write(file)
	for i, name := range append([]string{"filename", "additional_tags"}, more...) {
		_ = form.WriteField(name, []string{"x.pcap", tags, "", ""}[i])
	}
	_ = form.Close()
	response, err := http.Post(address, form.FormDataContentType(), &body)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(answer)
}

// TestStrict: what CloudShark would not take is refused, with words.
func TestStrict(t *testing.T) {
	pcap := append([]byte{0xd4, 0xc3, 0xb2, 0xa1}, make([]byte, 20)...)
	packet := append(make([]byte, 8), 2, 0, 0, 0, 2, 0, 0, 0, 'a', 'b')
	whole := append(bytes.Clone(pcap), packet...)
	for name, test := range map[string]struct {
		path, tags string
		file       []byte
		more       []string
		status     int
		answer     string
	}{
		"a good one":    {"/api/v1/" + Token + "/upload", "a,b", whole, []string{"comments"}, 200, `"id":"cafe1"`},
		"wrong token":   {"/api/v1/x/upload", "", whole, nil, 401, "invalid token"},
		"another path":  {"/api/v1/" + Token + "/uploads", "", whole, nil, 404, "no such page"},
		"cut off":       {"/api/v1/" + Token + "/upload", "", whole[:len(whole)-1], nil, 400, "cut off"},
		"too short":     {"/api/v1/" + Token + "/upload", "", whole[:23], nil, 400, "shorter"},
		"no capture":    {"/api/v1/" + Token + "/upload", "", make([]byte, 40), nil, 400, "no capture"},
		"too many tags": {"/api/v1/" + Token + "/upload", strings.Repeat("t,", 30), whole, nil, 400, "30 tags"},
		"unknown part":  {"/api/v1/" + Token + "/upload", "", whole, []string{"extra"}, 400, "extra"},
		"part repeated": {"/api/v1/" + Token + "/upload", "", whole, []string{"filename"}, 400, "filename"},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := post(t, Start(t, nil).URL+test.path, test.file, test.tags, test.more...)
			if status != test.status || !strings.Contains(answer, test.answer) {
				t.Errorf("want %d with %s, got %d, %s", test.status, test.answer, status, answer)
			}
		})
	}
}
