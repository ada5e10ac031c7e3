package sharktest

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"
)

// A form is what is sent: parts in turn, the name of each and its content.
type form [][2]string

// post sends a form to a path of the server and returns status and body of the answer.
func post(t *testing.T, s *Server, path string, f form) (int, string) {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, part := range f {
		create := w.CreateFormField
		if part[0] == "file" {
			create = func(name string) (io.Writer, error) { return w.CreateFormFile(name, "a.pcap") }
		}
		field, err := create(part[0])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(field, part[1]) // into memory
	}
	_ = w.Close()
	return send(t, s.URL+path, w.FormDataContentType(), &body)
}

// send sends a body and returns status and body of the answer.
func send(t *testing.T, url, kind string, body io.Reader) (int, string) {
	t.Helper()
	response, err := http.Post(url, kind, body)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// uploadPath is where uploads go.
const uploadPath = "/api/v1/" + Token + "/upload"

func TestTakesUploads(t *testing.T) {
	s := Start(t, nil)
	content := string(makeCapture(100))
	status, answer := post(t, s, uploadPath, form{
		{"file", content}, {"filename", "a.pcap"}, {"additional_tags", "x,y"}, {"comments", "why"},
	})
	if want := `{"filename":"a.pcap","id":"cafe1"}`; status != 200 || answer != want {
		t.Errorf("want 200 %s, got %d %s", want, status, answer)
	}
	if got := s.Received(); len(got) != 1 {
		t.Fatalf("want one upload, got %d", len(got))
	}
	u := s.Received()[0]
	packets, err := u.Packets()
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"file":     {"a.pcap", u.File},
		"filename": {"a.pcap", u.Filename},
		"tags":     {"x,y", u.Tags},
		"comments": {"why", u.Comments},
		"agent":    {"Go-http-client/1.1", u.Agent},
		"content":  {content, string(u.Content)},
		"packets":  {1, packets},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: want %v, got %v", what, pair[0], pair[1])
		}
	}
}

func TestRefuses(t *testing.T) {
	content := string(makeCapture(100))
	good := form{{"file", content}, {"filename", "a.pcap"}}
	tags := [2]string{"additional_tags", strings.Repeat("t,", 30) + "t"}
	for name, test := range map[string]struct {
		path   string
		form   form
		status int
		want   string
	}{
		"another path":     {"/upload", good, 404, "no such page"},
		"path with more":   {uploadPath + "/x", good, 404, "no such page"},
		"no token":         {"/api/v1/upload", good, 404, "no such page"},
		"wrong token":      {"/api/v1/" + strings.Repeat("0", 32) + "/upload", good, 401, "invalid token"},
		"no file":          {uploadPath, form{{"filename", "a.pcap"}}, 400, "no file"},
		"two files":        {uploadPath, append(form{{"file", content}}, good...), 400, "comes twice"},
		"unknown part":     {uploadPath, append(form{{"tags", "x"}}, good...), 400, "not known"},
		"no name":          {uploadPath, good[:1], 400, "two names"},
		"another name":     {uploadPath, form{{"file", content}, {"filename", "b.pcap"}}, 400, "two names"},
		"too many tags":    {uploadPath, append(form{tags}, good...), 400, "more than 30 tags"},
		"an empty file":    {uploadPath, form{{"file", ""}, {"filename", "a.pcap"}}, 400, "no capture file"},
		"a truncated file": {uploadPath, form{{"file", content[:99]}, {"filename", "a.pcap"}}, 400, "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Start(t, nil)
			status, answer := post(t, s, test.path, test.form)
			if status != test.status || !strings.Contains(answer, test.want) {
				t.Errorf("want %d with %q, got %d %s", test.status, test.want, status, answer)
			}
			if got := len(s.Received()); got != 0 {
				t.Errorf("want nothing taken, got %d uploads", got)
			}
		})
	}
}

func TestRefusesUnknownLength(t *testing.T) {
	s := Start(t, nil)
	unknown := io.MultiReader(strings.NewReader("x")) // of a kind whose length net/http does not see
	status, answer := send(t, s.URL+uploadPath, "text/plain", unknown)
	if status != 411 || !strings.Contains(answer, "no Content-Length") {
		t.Errorf("want it refused for its length, got %d %s", status, answer)
	}
}

func TestAnswersAsItIsTold(t *testing.T) {
	s := Start(t, func(w http.ResponseWriter, _ *http.Request, try int) bool {
		if try == 1 {
			w.WriteHeader(503)
		}
		return try == 1
	})
	for _, want := range []int{503, 404} {
		if got, _ := post(t, s, "/", nil); got != want {
			t.Errorf("want %d, got %d", want, got)
		}
	}
	if got := s.Count(); got != 2 {
		t.Errorf("want 2 requests, got %d", got)
	}
}

// TestTakesAnyToken: what has a meaning in a path arrives as it was sent.
func TestTakesAnyToken(t *testing.T) {
	s := Start(t, nil)
	s.Token = "a b/c%d"
	good := form{{"file", string(makeCapture(24))}, {"filename", "a.pcap"}}
	if status, answer := post(t, s, "/api/v1/a%20b%2Fc%25d/upload", good); status != 200 {
		t.Errorf("want 200, got %d %s", status, answer)
	}
}
