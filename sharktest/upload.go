package sharktest

import (
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
)

// maxTags is how many tags CloudShark takes.
const maxTags = 30

// An Upload is what CloudShark got.
type Upload struct {
	File, Filename, Tags, Comments, Agent string
	Content                               []byte
}

// Packets returns how many packets the file holds, which is whole to its last byte.
func (u Upload) Packets() (int, error) { return countPackets(u.Content) }

// readForm reads the parts of an upload.
func readForm(r *http.Request) (Upload, error) {
	u := Upload{Agent: r.UserAgent()}
	parts, err := r.MultipartReader()
	if err != nil {
		return u, err
	}
	seen := map[string]bool{}
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return u, err
		}
		if seen[part.FormName()] {
			return u, fmt.Errorf("part %q comes twice", part.FormName())
		}
		seen[part.FormName()] = true
		content, err := io.ReadAll(part)
		if err != nil {
			return u, err
		}
		if err := u.set(part, content); err != nil {
			return u, fmt.Errorf("part %q: %w", part.FormName(), err)
		}
	}
	switch {
	case !seen["file"]:
		return u, errors.New("no file")
	case u.File != u.Filename:
		return u, errors.New("the file has two names")
	case len(strings.Split(u.Tags, ",")) > maxTags:
		return u, fmt.Errorf("more than %d tags", maxTags)
	}
	return u, nil
}

// set takes one part of the form.
func (u *Upload) set(part *multipart.Part, content []byte) error {
	switch part.FormName() {
	case "file":
		u.File, u.Content = part.FileName(), content
	case "filename":
		u.Filename = string(content)
	case "additional_tags":
		u.Tags = string(content)
	case "comments":
		u.Comments = string(content)
	default:
		return errors.New("not known")
	}
	return nil
}
