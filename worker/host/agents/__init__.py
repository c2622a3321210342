"""The guest agent's protocol over vsock."""
