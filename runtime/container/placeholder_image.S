// The placeholder's ELF file, as bytes of ours (runc_placeholder.cc writes it into a memfd).
    .section .rodata, "a", @progbits
    .global godwit_placeholder_image, godwit_placeholder_image_end
    .balign 16
godwit_placeholder_image:
    .incbin PLACEHOLDER_PATH
godwit_placeholder_image_end:
    .section .note.GNU-stack, "", @progbits
