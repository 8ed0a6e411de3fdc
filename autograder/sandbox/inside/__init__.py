"""What runs in the sandbox. Nothing here is trusted by what runs outside."""
